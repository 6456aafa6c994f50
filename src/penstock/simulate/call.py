"""One choice of a request on its way through a fleet."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from penstock.record.record import Outcome
from penstock.schedule.sequence import Keys

if TYPE_CHECKING:
    from penstock.schedule.sequence import Sequence as Seat
    from penstock.simulate.replica import Replica

Span = tuple["array[float]", int, int]


class Call:
    """What is asked, and what became of it; times in virtual seconds.

    `said` tokens have reached the client so far, over all replicas that worked
    on it. `outcome` is set once, when `ended` is called. `spans` are the steps
    that gave its tokens, as slices of their replica's `ends`, where those are kept.
    """

    __slots__ = (
        *("asked_at", "awaited", "cached", "counted", "end", "ended", "error", "first"),
        *("inside", "keys", "last", "outcome", "output", "owner", "preemptions", "priority"),
        *("prompt", "replica", "retries", "said", "seat", "session", "spans", "started"),
        *("streaming", "taken"),
    )

    def __init__(
        self,
        prompt: int,
        output: int,
        asked_at: float,
        ended: Callable[[Call], None],
        *,
        keys: Keys | None = None,
        session: Hashable | None = None,
        priority: int = 0,
        owner: object = None,
    ) -> None:
        self.prompt = prompt
        self.output = output
        self.asked_at = asked_at
        self.ended = ended  # called once, at the end
        self.keys = keys  # of its pages, prompt and answer; None: it shares nothing
        self.session = session
        self.priority = priority
        self.owner = owner
        self.outcome: Outcome | None = None
        self.error: str | None = None
        self.started: float | None = None  # when its first chunk was computed, or begun to be
        self.first: float | None = None
        self.last: float | None = None
        self.end: float | None = None
        self.awaited = 0  # tokens that its replica is thought to compute before the next
        self.said = self.cached = self.preemptions = self.retries = 0
        self.replica: Replica | None = None  # that works on it, or did last
        self.seat: Seat | None = None  # in that replica's scheduler
        self.counted = False  # among the fleet's outstanding requests
        self.inside = False  # its scheduler knows of it
        self.taken = False  # its K and V came over a link: the prompt costs no arithmetic
        self.streaming = False  # decodes: every step gives it a token
        self.spans: list[Span] | None = None

    def finish(self, outcome: Outcome, now: float, error: str | None = None) -> None:
        """The one end. Raises `RuntimeError` on a second."""
        if self.outcome is not None:
            raise RuntimeError(f"a request ended twice: {self.outcome}, then {outcome}")
        self.outcome, self.error, self.end = outcome, error, now
        self.ended(self)
