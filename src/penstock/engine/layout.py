"""Lays the rows of one step end to end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.model.batch import PrefillSpan, StepBatch, Watched


class Layout:
    """Collects a step's rows: first its decodes, then runs of tokens, each of one sequence.

    Its decodes: newest `tokens` int64 [D] at `positions` int64 [D], each with the
    pages in its row, `rows` int64 [D], of `tables` int64 [any, any], which lack the pages
    of `dropped` earlier tokens, int64 [D] or for all. Their logits are all wanted.
    """

    def __init__(
        self,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        tables: NDArray[np.int64],
        rows: NDArray[np.int64],
        dropped: NDArray[np.int64] | int = 0,
        *,
        page_size: int,
        device: torch.device,
    ) -> None:
        count = len(tokens)
        index = positions - dropped  # of the slot in the table
        longest = int(index.max()) + 1 if count else 0
        self.wanted = list(range(count))  # rows whose logits are wanted, ascending
        self._size = page_size
        self._device = device
        self._decodes = count
        self._longest = longest
        self._tables = tables[rows, : -(-longest // page_size)]  # all of a table may be long
        pages = tables[rows, index // page_size]
        self._tokens = [tokens]
        self._positions = [positions]
        self._slots = [pages * page_size + index % page_size]
        self._contexts = index + 1
        self._spans: list[PrefillSpan] = []
        self._watched: list[Watched] = []
        self._rows = count

    def run(
        self, pages: NDArray[np.int64], tokens: list[int], first: int, dropped: int = 0
    ) -> range:
        """Add `tokens`, from position `first` on, of a sequence with these `pages`.

        They lack those of `dropped` earlier tokens. Returns the rows.
        """
        start, end = self._rows, self._rows + len(tokens)
        context = first + len(tokens) - dropped
        table = pages[: -(-context // self._size)]
        span = np.arange(first - dropped, context)
        self._tokens.append(np.array(tokens, np.int64))
        self._positions.append(span + dropped)
        self._slots.append(table[span // self._size] * self._size + span % self._size)
        self._spans.append(PrefillSpan(start, end, self._tensor(table), context))
        self._rows = end
        return range(start, end)

    def watch(self, last: int) -> Tensor:
        """Ask how much the `last` rows of the newest run attend to each of its pages.

        Returns where that is added up: fp32 [pages].
        """
        span = self._spans[-1]
        mass = torch.zeros(len(span.table), device=self._device)
        start = max(span.start, span.end - last)
        self._watched.append(Watched(start, span.end, span.table, span.context, mass))
        return mass

    def want(self, rows: Iterable[int]) -> range:
        """Ask for the logits of rows after those asked for so far; returns where they come."""
        first = len(self.wanted)
        self.wanted += rows
        return range(first, len(self.wanted))

    def batch(self) -> StepBatch:
        """All rows, as the model takes them."""
        return StepBatch(
            tokens=self._tensor(np.concatenate(self._tokens)),
            positions=self._tensor(np.concatenate(self._positions)),
            slots=self._tensor(np.concatenate(self._slots)),
            decodes=self._decodes,
            decode_tables=self._tensor(self._tables),
            decode_contexts=self._tensor(self._contexts),
            max_decode_context=self._longest,
            prefills=self._spans,
            logit_rows=self._tensor(np.array(self.wanted, np.int64)),
            watched=self._watched,
        )

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
