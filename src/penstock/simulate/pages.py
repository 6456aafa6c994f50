"""Keys of KV pages from what a prompt is made of, instead of from its tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable
from itertools import accumulate

from penstock.schedule.sequence import Keys
from penstock.workload.pieces import Piece


class PieceKeys:
    """Key of the i-th page of a row of pieces; None beyond the last full page.

    A key says which tokens of which pieces a page holds. The prefix index asks
    for it below the page before, so equal paths mean equal prefixes. Keys are
    made when first asked for, and kept.
    """

    __slots__ = ("_ends", "_keys", "_names", "_size")

    def __init__(self, pieces: Iterable[Piece], page_size: int) -> None:
        kept = [piece for piece in pieces if piece[1] > 0]
        self._names = [name for name, _ in kept]
        self._ends = list(accumulate(tokens for _, tokens in kept))
        self._size = page_size
        self._keys: list[Hashable] = []

    def __call__(self, page: int) -> Hashable | None:
        """Key of a page."""
        keys = self._keys
        if page < len(keys):
            return keys[page]
        if not self._ends or (page + 1) * self._size > self._ends[-1]:
            return None
        keys.extend(self._key(each) for each in range(len(keys), page + 1))
        return keys[page]

    def _key(self, page: int) -> Hashable:
        ends, names = self._ends, self._names
        start = page * self._size
        end = start + self._size
        i = bisect_right(ends, start)
        begin = ends[i - 1] if i else 0
        if end <= ends[i]:
            return names[i], start - begin
        parts: list[tuple[str, int, int]] = []
        while start < end:
            stop = min(end, ends[i])
            parts.append((names[i], start - begin, stop - start))
            start = begin = ends[i]
            i += 1
        return tuple(parts)


def chain(keys: Keys, pages: int) -> list[int]:
    """One number for each leading page that has a key, equal where all pages up to it are equal."""
    found, before = [], 0
    for page in range(pages):
        key = keys(page)
        if key is None:
            break
        before = hash((before, key))
        found.append(before)
    return found
