"""One continuation of a request, as the scheduler sees it: counts and pages, no tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto

Keys = Callable[[int], Hashable | None]
"""Key of a sequence's i-th page for the prefix index; None when it has none (yet)."""


def no_keys(page: int) -> None:
    """Keys of a sequence that shares nothing."""


class State(Enum):
    """Where a sequence stands."""

    WAITING = auto()  # holds no page
    PREFILL = auto()  # has known tokens to compute before it can sample
    DECODE = auto()  # computes its newest token and samples the next, every step
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Clock:
    """Decode steps taken so far. All decoding sequences advance with it, untouched."""

    tick: int = 0


STILL = Clock()


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation of a request.

    Counts tokens. The first `computed` tokens have their K and V in `pages`,
    `length` are known (prompt, then sampled); it ends by length when `length`
    reaches `limit`. Always `0 <= computed < length <= limit` while alive, and
    `computed - dropped <= len(pages) * page_size` while it runs.

    One with a `budget` gives up pages in the end (see `budget.Budget`): then `dropped` of
    the computed tokens have no K and V any more, and `pages` holds those of the others.

    `peers` are sequences of equal length that run in lockstep, this one among
    them (the beams of a search); empty for one that runs alone.

    A decoding sequence advances by one token a step. So that such a step costs
    nothing per sequence, `computed` is kept as an offset to the scheduler's
    clock while decoding, and to a clock that stands still otherwise.
    """

    id: Hashable
    prompt: int
    limit: int
    keys: Keys = no_keys
    priority: int = 0
    peers: tuple[Sequence, ...] = ()

    budget: int | None = None  # pages it may hold once its prompt is computed; None: all
    watched: int = 0  # tokens at the end of the prompt whose attention rates its pages

    state: State = State.WAITING
    pages: list[int] = field(default_factory=list)
    dropped: int = 0  # tokens whose pages were given up, always whole pages
    worth: list[float] = field(default_factory=list)  # of each page, with a budget
    indexed: int = 0  # leading pages that are in the prefix index, each below the one before
    cached: int = 0  # tokens found in the cache instead of computed, first admission only
    preemptions: int = 0
    order: tuple[int, int] = (0, 0)  # (priority, number of arrival): smaller is served first
    arrival: float = 0.0
    target: int = 0  # tokens to compute before sampling, when not decoding
    event: tuple[int, int] | None = None  # its valid entry in the scheduler's calendar
    last_tick: int = 0  # when decoding: the tick at which it ends by length
    _clock: Clock = STILL
    _offset: int = 0

    def __post_init__(self) -> None:
        self.target = self.prompt

    @property
    def computed(self) -> int:
        """Tokens whose K and V are in the pages."""
        return self._clock.tick + self._offset

    @computed.setter
    def computed(self, tokens: int) -> None:
        self._offset = tokens - self._clock.tick

    @property
    def length(self) -> int:
        """Tokens known: the prompt and what was sampled."""
        return self.computed + 1 if self.state is State.DECODE else self.target

    @property
    def adoptable(self) -> int:
        """Leading tokens whose K and V may be others'.

        The last known token is always computed, since its logits are wanted; with a
        budget the end of the prompt too, where pages are given up.
        """
        if self.budget is None:
            return self.target - 1
        return self.prompt - max(1, self.watched)

    @property
    def group(self) -> tuple[Sequence, ...]:
        """The sequences that start, run and pause together with this one, itself included."""
        return self.peers or (self,)

    def follow(self, clock: Clock) -> None:
        """Advance with another clock from now on, `computed` unchanged."""
        computed = self.computed
        self._clock = clock
        self.computed = computed
