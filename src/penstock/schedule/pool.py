"""Pages: who holds them, which may be reused, which are free."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from penstock.schedule.prefix import PrefixIndex


class Pool:
    """A fixed number of pages, each in exactly one of three states.

    *free*: nobody holds it and its content is worthless. *held*: one or more
    sequences hold it. *cached*: nobody holds it, but the prefix index can
    still find its content; taking pages evicts the oldest of these once the
    free ones are used up. Always free + held + cached = total.

    A holder of an indexed page holds that page's ancestors too, unless it gave them
    up, so a page reaches the cached state no earlier than its descendants, and
    releasing deepest first keeps `_cached` in an order in which evicting from the
    old end never orphans a descendant.
    """

    def __init__(self, pages: int, index: PrefixIndex) -> None:
        self.total = pages
        self.index = index
        self._free = list(range(pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * pages

    @property
    def free(self) -> int:
        """Pages with nothing worth keeping."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Pages that nobody holds and the prefix index still knows."""
        return len(self._cached)

    @property
    def held(self) -> int:
        """Pages with at least one holder."""
        return self.total - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Pages that `take` could hand out now."""
        return len(self._free) + len(self._cached)

    def is_held(self, page: int) -> bool:
        """Whether any sequence holds the page."""
        return self._holders[page] > 0

    def take(self, count: int) -> list[int]:
        """Hand out `count` pages with one holder each; the caller has checked `available`."""
        if count == 1 and self._free:  # a decode's next page, nearly always
            page = self._free.pop()
            self._holders[page] = 1
            return [page]
        if count > self.available:
            raise RuntimeError(f"{count} pages asked of a pool with {self.available} available")
        free = self._free
        taken = free[: -count - 1 : -1]
        del free[len(free) - len(taken) :]
        while len(taken) < count:
            page, _ = self._cached.popitem(last=False)
            self.index.forget(page)
            taken.append(page)
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, page: int) -> None:
        """Add a holder to a page that is held or cached."""
        if self._holders[page] == 0:
            del self._cached[page]
        self._holders[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Take one holder from each page of a sequence, given in the sequence's order."""
        holders, indexed = self._holders, self.index.pages
        for page in reversed(pages):
            left = holders[page] - 1
            if left < 0:
                raise RuntimeError(f"page {page} released more often than held")
            holders[page] = left
            if not left:
                if page in indexed:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def drop_cache(self) -> None:
        """Forget all cached and indexed content; held pages stay with their holders."""
        self._free.extend(self._cached)
        self._cached.clear()
        self.index.clear()

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Raise `AssertionError` unless the books balance with these holdings."""
        holders = [0] * self.total
        for pages in held:
            for page in pages:
                holders[page] += 1
        assert holders == self._holders, "holder counts differ from what sequences hold"
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & cached, "a page is both free and cached"
        for page, count in enumerate(holders):
            assert (count == 0) == (page in free or page in cached), f"page {page} is lost"
        assert all(page in self.index for page in cached), "a cached page is not indexed"
        assert not any(page in self.index for page in free), "a free page is still indexed"
        self.index.check()
