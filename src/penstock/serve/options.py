"""The server's own switches. Imports nothing of the server."""

from __future__ import annotations

from typing import Literal

import msgspec

LogFormat = Literal["text", "json"]

KEYS_VARIABLE = "PENSTOCK_API_KEYS"  # of the environment; the engine process does not get it


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every switch of the server beside the engine's own. Raises `ValueError` naming the field."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    stall_after_s: float = 30.0  # work, and no completed step for so long: not healthy
    # For so long: the engine process is killed and started again; 0 never. Far above
    # the longest step anybody waits for, a first compilation: a kill costs everything
    # that runs, and what has not moved by then has not been seen to move again.
    kill_stalled_after_s: float = 300.0
    drain_s: float = 30.0  # how long requests in flight may go on once told to stop
    deadline_s: float | None = None  # from a request's arrival to its last byte
    api_keys: tuple[str, ...] = ()  # any of them opens; none: everybody may ask
    max_open: int = 2048  # requests in the server at once: more than the engine's queue
    max_body: int = 16 << 20  # bytes; a million token ids, comma and space, take half of it
    body_timeout_s: float = 60.0  # from a request's first byte to its last
    # As long as nginx waits (send_timeout): a browser that froze for a moment is
    # back by then, and who is not holds an answer and a connection no longer.
    write_timeout_s: float = 60.0
    log_format: LogFormat = "text"
    # Share of tokens that stays of prompts that are shortened; None: none is.
    compress_keep: float | None = None
    compress_over: int = 1024  # tokens from which a prompt is, unless its request says
    compress_model: str | None = None  # that judges; None: as `shortening.small_model` finds

    def __post_init__(self) -> None:
        if not all(key and key.isascii() and key.isprintable() for key in self.api_keys):
            raise ValueError("api_keys: a key is empty or not printable ASCII, as headers need.")
        for name in ("deadline_s", "max_open", "max_body", "body_timeout_s", "write_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be above 0.")
        if self.compress_keep is not None and not 0 < self.compress_keep <= 1:
            raise ValueError(
                f"compress_keep={self.compress_keep} must lie in (0, 1]: the share of a "
                "prompt that stays (--compress-prompts 0.5)."
            )
        if self.compress_over < 0:
            raise ValueError(f"compress_over={self.compress_over} must not be negative.")
        if self.compress_keep is None and self.compress_model is not None:
            raise ValueError(
                f"compress_model={self.compress_model} shortens nothing without compress_keep: "
                "give the share that is to stay (--compress-prompts 0.5)."
            )

    def __repr__(self) -> str:
        keys = f"{len(self.api_keys)} hidden"
        shown = {name: getattr(self, name) for name in self.__struct_fields__} | {"api_keys": keys}
        return f"ServeOptions({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
