"""The ragged batch one step takes through the model."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class PrefillSpan:
    """Rows `start:end` of a batch: a run of one sequence's tokens, in order."""

    start: int
    end: int
    table: Tensor  # int64 [pages], the sequence's pages, in order, at least up to the last row's
    context: int  # slots of the table that are filled once this chunk is written


@dataclass(slots=True)
class Watched:
    """Rows `start:end`, the last of a prefill: how much they attend to each page is wanted."""

    start: int
    end: int
    table: Tensor  # int64 [pages]
    context: int  # slots of the table that are filled once these rows are written
    mass: Tensor  # fp32 [pages], summed over rows, heads and layers, deep ones apart


@dataclass(slots=True)
class StepBatch:
    """Tokens of many sequences laid end to end: `decodes` one-token rows, then prefill spans.

    Attention contract: the K and V of **all** rows are written to the pool before
    any row of the same layer attends, so a row may read pages that another
    sequence fills in this very step. A row at slot index i of its table (slots
    counted along the table, page by page) attends slots 0..i, or with a sliding
    window w slots max(0, i-w+1)..i. Rotary positions are given apart from slot
    indices, so a table may lack pages from its middle.

    Shapes: T rows, D decodes, P the longest decode table of the batch.
    """

    tokens: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T], page * page_size + offset: where each row's K and V go
    decodes: int  # D
    decode_tables: Tensor  # int64 [D, P], padded with page 0
    decode_contexts: Tensor  # int64 [D], filled slots including the row's own
    max_decode_context: int  # no less than the largest of them, 0 when D is 0
    prefills: list[PrefillSpan]
    logit_rows: Tensor  # int64 [L], rows whose logits are wanted, ascending
    watched: list[Watched] = field(default_factory=list)

    def wanted(self) -> StepBatch:
        """The rows whose logits are wanted, as a batch of their own: decodes, then runs of rows.

        This one, where those are all.
        """
        if len(self.logit_rows) == len(self.tokens):
            return self
        rows = self.logit_rows.tolist()
        decodes = bisect_left(rows, self.decodes)
        some = self.logit_rows[:decodes]
        return StepBatch(
            tokens=self.tokens.index_select(0, self.logit_rows),
            positions=self.positions.index_select(0, self.logit_rows),
            slots=self.slots.index_select(0, self.logit_rows),
            decodes=decodes,
            decode_tables=self.decode_tables.index_select(0, some),
            decode_contexts=self.decode_contexts.index_select(0, some),
            max_decode_context=self.max_decode_context if decodes else 0,
            prefills=_runs(self.prefills, rows, decodes),
            logit_rows=torch.arange(len(rows), device=self.tokens.device),
        )


def _runs(spans: list[PrefillSpan], rows: list[int], at: int) -> list[PrefillSpan]:
    """What is left of `spans` of those `rows` alone, from the `at`-th on: runs of neighbours."""
    runs = []
    for span in spans:
        while at < len(rows) and rows[at] < span.end:
            start = at
            at += 1
            while at < len(rows) and rows[at] == rows[at - 1] + 1 and rows[at] < span.end:
                at += 1
            context = span.context - (span.end - 1 - rows[at - 1])
            runs.append(PrefillSpan(start, at, span.table, context))
    return runs
