"""What is known of one HTTP request: for its line in the log and its place in the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from penstock.engine.request import Timing

_KEY = "penstock.entry"


class Watcher(Protocol):
    """What wants to know of each text at once. `penstock.serve.metrics.Metrics` is one."""

    def first_text(self, after_s: float) -> None:
        """A request has its first text, so many seconds after its arrival."""
        ...

    def gap(self, seconds: float) -> None:
        """So long after the text before it, a choice has more."""
        ...


@dataclass(slots=True)
class Choice:
    """When text of one choice was handed to the network (monotonic s), and tokens by then."""

    first: float
    first_tokens: int
    last: float
    tokens: int


@dataclass(slots=True, eq=False)
class Entry:
    """One request. Whoever serves it fills in what it learns; `Front` begins and ends it.

    `outcome` is a finish reason, "cancelled" or the code of an error, and stays
    None for what does not generate. Times are monotonic seconds.
    """

    watcher: Watcher
    endpoint: str
    id: str
    arrived: float = field(default_factory=monotonic)  # its last byte, once that is read
    received: bool = False  # whether the body is complete
    status: int | None = None
    outcome: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None  # of all choices
    first: float | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)  # of the choices that ended

    @staticmethod
    def of(scope: Any) -> Entry:
        """Return the entry of the request with this ASGI scope."""
        entry: Entry = scope[_KEY]
        return entry

    def enter(self, scope: Any) -> None:
        """Make this the entry of `scope`."""
        scope[_KEY] = self

    def text(self, index: int, tokens: int) -> None:
        """Text of choice `index` is handed to the network; `tokens` of it are out by now."""
        now = monotonic()
        choice = self.choices.get(index)
        if choice is not None:
            self.watcher.gap(now - choice.last)
            choice.last, choice.tokens = now, tokens
            return
        self.choices[index] = Choice(now, tokens, now, tokens)
        if self.first is None:
            self.first = now
            self.watcher.first_text(now - self.arrived)
