"""Which pages a sequence keeps when it may hold only so many."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from penstock.schedule.policy import WATCHED, Policy
from penstock.schedule.pool import Pool
from penstock.schedule.sequence import Sequence

Attended = Mapping[Sequence, list[float]]
"""How much of its attention the end of a prompt gave to each page of the sequence."""


class Budget:
    """At most so many pages for a sequence, from the end of its prompt on.

    A prompt is computed with all its pages. Then, and whenever the pages it may hold are
    full, the sequence gives up those worth least; the newest always stays. The others
    stay valid, since keys carry their positions. `Policy.kv_keep` says what a page is worth:

    - *recent*: the newer, the more; what is left is a sliding window.
    - *streaming*: the same, but the first page always stays (StreamingLLM, Xiao et al. 2023).
    - *snapkv*: half of the budget stays with the first page and those pages of the prompt that
      its last tokens attend to most, over all heads and layers; the rest is as recent (after
      SnapKV, Li et al. 2024, which chooses tokens, for each head). A page counts as much as its
      neighbours: what an answer reads next stands behind what its question looks at.
    - *random*: the baseline.
    """

    def __init__(self, policy: Policy, pool: Pool, page_size: int) -> None:
        assert policy.kv_budget is not None
        self._pages = policy.kv_budget // page_size
        self._keep = policy.kv_keep
        self._pool = pool
        self._size = page_size

    def limit(self, sequence: Sequence) -> None:
        """Put a sequence under the budget if it can outgrow it."""
        if -(-(sequence.limit - 1) // self._size) > self._pages:
            sequence.budget = self._pages
            sequence.watched = WATCHED if self._keep == "snapkv" else 0

    def chunk_end(self, sequence: Sequence, end: int) -> int:
        """Where a chunk that could reach `end` must end.

        Pages are given up between chunks alone, at places that depend on nothing but the
        sequence, so its text does not depend on chunks or preemptions. The tokens whose
        attention counts are computed in one chunk.
        """
        if sequence.computed >= sequence.prompt:
            return min(end, sequence.dropped + self._pages * self._size)
        if end >= sequence.prompt:
            return sequence.prompt
        return min(end, sequence.prompt - sequence.watched)

    def trim(self, sequence: Sequence, attended: Attended) -> int:
        """Give up pages until the next token has room; returns how many tokens they held."""
        pages, worth, size = sequence.pages, sequence.worth, self._size
        if not worth and sequence.watched:
            worth += self._by_attention(sequence, attended[sequence])
        gone = sequence.dropped // size
        worth += [self._worth(gone + i) for i in range(len(worth), len(pages))]
        full = sequence.computed - sequence.dropped == len(pages) * size
        surplus = len(pages) + full - self._pages
        if surplus <= 0:
            return 0
        least = set(sorted(range(len(pages) - 1), key=worth.__getitem__)[:surplus])
        self._pool.release([pages[i] for i in sorted(least)])
        pages[:] = [page for i, page in enumerate(pages) if i not in least]
        worth[:] = [each for i, each in enumerate(worth) if i not in least]
        sequence.dropped += surplus * size
        sequence.indexed = 0  # what it holds is no path of the prefix tree any more
        return surplus * size

    def _by_attention(self, sequence: Sequence, attended: list[float]) -> list[float]:
        """Worth of the pages before the watched tokens; below that of every page after."""
        before = max(0, sequence.prompt - sequence.watched) // self._size
        # The first page is where attention goes that finds nothing: it stays, and lends nothing.
        own = [0.0, *attended[1:before]]
        near = [max(own[max(0, i - 1) : i + 2]) for i in range(before)]
        best = sorted(range(1, before), key=lambda i: (near[i], own[i]))[1 - self._pages // 2 :]
        total = sum(attended) or 1.0
        return [math.inf if i == 0 or i in best else near[i] / total for i in range(before)]

    def _worth(self, ordinal: int) -> float:
        """Worth of the page that is so many pages from the beginning."""
        if self._keep == "random":
            return random.Random(ordinal).random()
        return math.inf if ordinal == 0 and self._keep != "recent" else ordinal
