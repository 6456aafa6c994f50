"""Keys of KV pages from what a prompt is made of, instead of from its tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator
from itertools import accumulate

import msgspec

from penstock.schedule.sequence import Keys
from penstock.workload.pieces import Piece
from penstock.workload.traces import Runs, Trace, joined


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


def by_page(trace: Trace, page_tokens: int) -> tuple[Trace, int]:
    """The same trace with ids for whole pages, and how many pages would keep all of it.

    Ids become numbers of nodes in the tree of all prompts. Blocks smaller than a page are
    put together, what is left at a prompt's end is its own: a page is shared whole or
    not at all, so a replay finds the same hits as with the trace's own blocks.

    Raises `ValueError` where the trace has no ids, and for pages that do not fit its blocks.
    """
    size = trace.block_tokens
    if not trace.blocks or not any(trace.blocks):
        raise ValueError(
            f"this trace ({trace.format}) does not say which prompts begin alike, so there is "
            "nothing to find in a cache; take one that does: Mooncake's JSON lines with hash_ids, "
            "or the agentic-coding table"
        )
    if page_tokens % size and size % page_tokens:
        raise ValueError(
            f"page_tokens={page_tokens} neither divides the trace's blocks of {size} tokens nor is "
            f"a multiple of them; take {size}"
        )
    nodes: dict[tuple[int, Runs], int] = {}
    paths: list[Runs] = []
    for runs in trace.blocks:
        at, path = -1, list[tuple[int, int]]()
        for key in _cut(runs, max(1, page_tokens // size)):
            at = nodes.setdefault((at, key), len(nodes))
            path.append((at, at + 1))
        paths.append(joined(path))
    block = max(size, page_tokens)
    pages = len(nodes) * (block // page_tokens)
    lengths = zip(paths, trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    for runs, prompt, output in lengths:
        shared = sum(stop - start for start, stop in runs) * block
        pages += (max(prompt - shared, 0) + output) // page_tokens + 1
    return msgspec.structs.replace(trace, blocks=paths, block_tokens=block), pages


def _cut(runs: Runs, many: int) -> Iterator[Runs]:
    """The ids in groups of `many`, as runs; what is left over is left out."""
    group, room = list[tuple[int, int]](), many
    for start, stop in runs:
        while start < stop:
            end = min(stop, start + room)
            group.append((start, end))
            start, room = end, room - (end - start)
            if not room:
                yield tuple(group)
                group, room = [], many
