"""Lays the rows of one step end to end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.model.batch import PrefillSpan, StepBatch


class Layout:
    """Collects a step's rows: first its decodes, then runs of tokens, each of one sequence.

    `decodes`: newest `tokens` int64 [D] at `positions` int64 [D], each with the
    pages of its row of `tables` int64 [D, any]. Their logits are all wanted.
    """

    def __init__(
        self,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        tables: NDArray[np.int64],
        *,
        page_size: int,
        device: torch.device,
    ) -> None:
        count = len(tokens)
        longest = int(positions.max()) + 1 if count else 0
        self.wanted = list(range(count))  # rows whose logits are wanted, ascending
        self._size = page_size
        self._device = device
        self._decodes = count
        self._longest = longest
        self._tables = tables[:, : -(-longest // page_size)]
        pages = tables[np.arange(count), positions // page_size]
        self._tokens = [tokens]
        self._positions = [positions]
        self._slots = [pages * page_size + positions % page_size]
        self._spans: list[PrefillSpan] = []
        self._rows = count

    def run(self, pages: NDArray[np.int64], tokens: list[int], first: int) -> range:
        """Add `tokens`, from position `first` on, of a sequence with these `pages`.

        Returns their rows.
        """
        start, end, context = self._rows, self._rows + len(tokens), first + len(tokens)
        table = pages[: -(-context // self._size)]
        span = np.arange(first, context)
        self._tokens.append(np.array(tokens, np.int64))
        self._positions.append(span)
        self._slots.append(table[span // self._size] * self._size + span % self._size)
        self._spans.append(PrefillSpan(start, end, self._tensor(table), context))
        self._rows = end
        return range(start, end)

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
            decode_contexts=self._tensor(self._positions[0] + 1),
            max_decode_context=self._longest,
            prefills=self._spans,
            logit_rows=self._tensor(np.array(self.wanted, np.int64)),
        )

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
