"""Which replica takes a request: the decisions between engines.

A router sees `View`s, what is known of each replica that may be chosen, as
fresh as its caller makes them, and knows no clock and no network. Prefixes
are chains: one number for each leading page of a prompt, equal where all
pages up to it are equal (`simulate.pages.chain` makes them from keys). The
simulator drives these objects as a router over real engines would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import NamedTuple

LOAD_TOKENS = 64  # see `Cheapest`


@dataclass(slots=True)
class View:
    """What a router knows of one replica.

    `outstanding` requests were sent to it and have not ended; `pending_tokens`
    is the sum of `Choice.new_tokens` over those that have no first token yet.
    `known` are the chains of the pages in its prefix index, where it tells.
    """

    number: int
    outstanding: int = 0
    pending_tokens: int = 0
    known: Container[int] = frozenset()


@dataclass(slots=True, frozen=True)
class Wanted:
    """What a router knows of a request; `page_tokens` are those of each link of the chain."""

    tokens: int
    session: Hashable | None = None
    chain: Sequence[int] = ()
    page_tokens: int = 1


class Choice(NamedTuple):
    """The replica that takes a request, and how many of its tokens it is thought to compute."""

    number: int
    new_tokens: int


class Router(ABC):
    """Chooses among the views, of which there is at least one."""

    reads_prefixes = False  # whether `Wanted.chain` is looked at

    @abstractmethod
    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """Who takes the request."""

    def forget(self, number: int) -> None:  # noqa: B027 (most remember nothing)
        """That replica has started anew: its cache is empty."""


class RoundRobin(Router):
    """Each in turn."""

    def __init__(self) -> None:
        self._last = -1

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        after = (view for view in views if view.number > self._last)
        chosen = min(after, key=_number, default=None) or min(views, key=_number)
        self._last = chosen.number
        return Choice(chosen.number, wanted.tokens)


class AtRandom(Router):
    """Any of them, evenly."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed} routing")

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        return Choice(self._random.choice(views).number, wanted.tokens)


class LeastLoaded(Router):
    """The one with the fewest requests; of equals, the one that was chosen longest ago."""

    def __init__(self) -> None:
        self._turns = _Turns()

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        chosen = self._turns.least(views, [view.outstanding for view in views])
        return Choice(chosen.number, wanted.tokens)


class PowerOfTwo(Router):
    """The less loaded of two drawn at random (Mitzenmacher, IEEE TPDS 12 (2001))."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed} routing")

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        two = self._random.sample(views, min(2, len(views)))
        return Choice(min(two, key=lambda view: view.outstanding).number, wanted.tokens)


class BySession(Router):
    """A session stays with its replica; requests without one go to the least loaded.

    By rendezvous hashing, so that a replica that comes or goes moves only the
    sessions that are then its own, or were.
    """

    def __init__(self) -> None:
        self._others = LeastLoaded()

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        if wanted.session is None:
            return self._others.choose(wanted, views)

        def weight(view: View) -> bytes:
            text = f"{wanted.session} {view.number}"
            return blake2b(text.encode(), digest_size=8).digest()

        return Choice(max(views, key=weight).number, wanted.tokens)


class Cheapest(Router):
    """The one that has the least to compute before the request's first token.

    Cost, in tokens: those of the prompt that the replica does not know, the
    same of the prompts that wait there already, and `load_tokens` for each request
    outstanding, since every sequence that decodes slows all steps. A large
    `load_tokens` is least-loaded with a taste for prefixes, zero follows
    prefixes into a crowd. `known` differs: see the subclasses.
    """

    reads_prefixes = True

    def __init__(self, load_tokens: float = LOAD_TOKENS) -> None:
        self._load_tokens = load_tokens
        self._turns = _Turns()

    @abstractmethod
    def known(self, view: View) -> Container[int]:
        """The chains that the replica is taken to have."""

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        new, costs = {}, []
        for view in views:
            found = matched(wanted.chain, self.known(view)) * wanted.page_tokens
            new[view.number] = max(wanted.tokens - found, 1)
            ahead = view.pending_tokens + self._load_tokens * view.outstanding
            costs.append(new[view.number] + ahead)
        chosen = self._turns.least(views, costs)
        return Choice(chosen.number, new[chosen.number])


class PrefixAware(Cheapest):
    """Goes by what it sent where: it sees no cache, so it must guess how much one keeps.

    `pages` is that guess, for each replica. Too large a one makes it expect
    what was evicted long ago.
    """

    def __init__(self, pages: int, load_tokens: float = LOAD_TOKENS) -> None:
        super().__init__(load_tokens)
        self._pages = pages
        self._sent: dict[int, OrderedDict[int, None]] = {}

    def known(self, view: View) -> Container[int]:
        """See `Cheapest`."""
        return self._sent.setdefault(view.number, OrderedDict())

    def choose(self, wanted: Wanted, views: Sequence[View]) -> Choice:
        """See `Router`."""
        chosen = super().choose(wanted, views)
        sent = self._sent[chosen.number]
        # Deepest first, so that no page outlives the pages before it.
        for link in reversed(wanted.chain):
            sent[link] = None
            sent.move_to_end(link)
        while len(sent) > self._pages:
            sent.popitem(last=False)
        return chosen

    def forget(self, number: int) -> None:
        """See `Router`."""
        self._sent.pop(number, None)


class KvAware(Cheapest):
    """Goes by what each replica says its prefix index holds, as late as the views are."""

    def known(self, view: View) -> Container[int]:
        """See `Cheapest`."""
        return view.known


def matched(chain: Sequence[int], known: Container[int]) -> int:
    """How many leading links are known.

    Where a link is known, those before it are: a cache keeps no page without
    its ancestors. So halving finds the last.
    """
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in known:
            low = middle
        else:
            high = middle - 1
    return low


class _Turns:
    """Breaks ties: of equals, the one that was chosen longest ago."""

    def __init__(self) -> None:
        self._chosen: dict[int, int] = {}
        self._count = 0

    def least(self, views: Sequence[View], costs: Sequence[float]) -> View:
        lowest = min(costs)
        equals = [view for view, cost in zip(views, costs, strict=True) if cost == lowest]
        chosen = min(equals, key=lambda view: (self._chosen.get(view.number, 0), view.number))
        self._count += 1
        self._chosen[chosen.number] = self._count
        return chosen


def _number(view: View) -> int:
    return view.number
