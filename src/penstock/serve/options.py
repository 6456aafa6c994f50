"""The server's own switches. Imports nothing of the server."""

from __future__ import annotations

import msgspec


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every switch of the server beside the engine's own."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    stall_after_s: float = 30.0  # work, and no completed step for so long: not healthy
    drain_s: float = 30.0  # how long requests in flight may go on once told to stop
