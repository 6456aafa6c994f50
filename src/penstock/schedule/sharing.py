"""How a sequence takes over pages that others computed, and offers its own."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.schedule.pool import Pool
from penstock.schedule.prefix import ROOT
from penstock.schedule.sequence import Sequence


class Sharing:
    """Moves sequences along the prefix tree, page by page.

    The first `indexed` pages of a sequence are a path from the root, and it
    holds every one of them.
    """

    def __init__(self, pool: Pool, page_size: int) -> None:
        self.pool = pool
        self.page_size = page_size

    def adopt(self, sequence: Sequence) -> None:
        """Take over pages that others have computed, or compute in this plan."""
        most = sequence.adoptable - self.page_size
        while (
            sequence.indexed == len(sequence.pages)
            and sequence.computed == sequence.indexed * self.page_size
            and sequence.computed <= most
        ):
            page = self._next(sequence)
            if page is None:
                return
            self.pool.share(page)
            sequence.pages.append(page)
            sequence.indexed += 1
            sequence.computed += self.page_size
            if not sequence.preemptions:
                sequence.cached += self.page_size

    def publish(self, sequence: Sequence, computed: int) -> None:
        """Index the sequence's own pages that `computed` tokens fill.

        Not behind a gap: what was computed without the pages given up is no one else's.
        """
        if sequence.dropped:
            return
        while sequence.indexed < computed // self.page_size:
            key = sequence.keys(sequence.indexed)
            if key is None:
                return
            if self._next(sequence) is not None:
                # Another sequence filled the same page first. What follows
                # would hang below a page that this sequence does not hold, so
                # it stays private as long as that one is there.
                return
            page = sequence.pages[sequence.indexed]
            self.pool.index.insert(self._parent(sequence), key, page)
            sequence.indexed += 1

    def branch(self, parents: Mapping[Sequence, Sequence]) -> list[tuple[int, int]]:
        """Let each key go on from its value, of equal length, with that one's K and V.

        Full pages are shared. A page in part filled stays each sequence's own:
        returns the copies to make, all at once, as (from page, to page).
        """
        moves = {child: parent for child, parent in parents.items() if child is not parent}
        before = {parent: list(parent.pages) for parent in moves.values()}
        keys = {parent: (parent.keys, parent.indexed) for parent in moves.values()}
        copies = []
        for child, parent in moves.items():
            full, rest = divmod(child.computed, self.page_size)
            for page in before[parent][:full]:
                self.pool.share(page)
            if rest:
                copies.append((before[parent][full], child.pages[full]))
        for child, parent in moves.items():
            full = child.computed // self.page_size
            self.pool.release(child.pages[:full])
            child.pages[:full] = before[parent][:full]
            child.keys, child.indexed = keys[parent]
        return copies

    def held_by_others(self, sequence: Sequence) -> int:
        """Count the pages of a waiting sequence that running ones hold: adopting takes none."""
        parent, count = ROOT, 0
        for i in range(sequence.adoptable // self.page_size):
            key = sequence.keys(i)
            page = None if key is None else self.pool.index.find(parent, key)
            if page is None or not self.pool.is_held(page):
                break
            parent, count = page, count + 1
        return count

    def _next(self, sequence: Sequence) -> int | None:
        """The indexed page that follows the sequence's indexed ones, if there is one."""
        key = sequence.keys(sequence.indexed)
        return None if key is None else self.pool.index.find(self._parent(sequence), key)

    def _parent(self, sequence: Sequence) -> int:
        return sequence.pages[sequence.indexed - 1] if sequence.indexed else ROOT
