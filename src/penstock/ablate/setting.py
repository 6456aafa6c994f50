"""What a worker is told and what it tells: how it serves, what it is asked, what came of it."""

from __future__ import annotations

import msgspec

from penstock.engine.options import EngineOptions

# What is done to a checkpoint before it is served, in this order.
FORMS = ("pruned", "swiftkv")


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a rung serves: everything that sets it apart from others.

    `forms` are those of `FORMS` that the checkpoint has been given. With
    `samples_together` the samples of a prompt are one request of n choices, else
    requests of their own, with the same seeds and so the same text.
    """

    options: EngineOptions
    forms: tuple[str, ...] = ()
    samples_together: bool = False
    shortened: bool = False  # prompts are compressed first


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The first line to a worker. `replay` is a file of recorded acceptance; see `replay`."""

    model: str  # a name or a directory
    options: EngineOptions
    replay: str | None = None
    shortener: str | None = None  # the model that rates prompts, if they are shortened


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The first line from a worker: what it serves, or why it cannot."""

    error: str | None = None
    precision: str = ""
    kv: str = ""
    threads: int = 0
    weight_bytes: int = 0
    parameters: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request: token ids, output tokens (no more, no fewer), and its sampling."""

    prompt: list[int]
    output: int
    seed: int
    samples: int = 1


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A later line to a worker: serve these, all queued at once."""

    asked: list[Asked]
    temperature: float


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """A later line from a worker: one serving of an order, times in seconds.

    `ttft` runs from the moment a sequence got its seat, and holds the time its own
    prompt took to shorten, an equal share of what all took. `tpot` is the mean gap of
    a sequence's later tokens; a value for each, the latter only where there are
    two tokens or more. `peak_bytes` is resident memory while it served.
    """

    seconds: float
    prompt_tokens: int
    cached_tokens: int
    ttft: list[float]
    tpot: list[float]
    peak_bytes: int
    said: list[list[int]]

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(map(len, self.said))

    @property
    def rate(self) -> float:
        """Output tokens per second, prompts read within the time."""
        return self.output_tokens / self.seconds
