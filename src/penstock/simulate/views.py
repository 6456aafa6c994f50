"""What a router is told of each replica: counts as they are, caches as late as the fleet says."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Hashable

from penstock.schedule.prefix import ROOT, PrefixIndex
from penstock.simulate.clock import Clock


class ToldIndex(PrefixIndex):
    """A replica's prefix index that tells what it gains and loses, `stale_s` later.

    A page is told as its chain: one number for the path that leads to it.
    """

    def __init__(self, clock: Clock, stale_s: float) -> None:
        super().__init__()
        self._clock = clock
        self._stale_s = stale_s
        self._chains: dict[int, int] = {ROOT: 0}
        self._untold: deque[tuple[float, int, bool]] = deque()
        self._told: set[int] = set()

    def insert(self, parent: int, key: Hashable, page: int) -> None:
        """See `PrefixIndex`."""
        super().insert(parent, key, page)
        chain = self._chains[page] = hash((self._chains[parent], key))
        self._untold.append((self._clock.now, chain, True))

    def forget(self, page: int) -> None:
        """See `PrefixIndex`."""
        super().forget(page)
        self._untold.append((self._clock.now, self._chains.pop(page), False))

    def known(self) -> Container[int]:
        """The chains that the router has heard of by now."""
        untold, told = self._untold, self._told
        until = self._clock.now - self._stale_s
        while untold and untold[0][0] <= until:
            _, chain, gained = untold.popleft()
            if gained:
                told.add(chain)
            else:
                told.discard(chain)
        return told
