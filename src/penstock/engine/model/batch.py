"""The ragged batch one step takes through the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class PrefillSpan:
    """Rows `start:end` of a batch: a run of one sequence's tokens, in order."""

    start: int
    end: int
    table: Tensor  # int64 [pages], the sequence's pages, in order, up to this chunk's last token
    context: int  # slots of the table that are filled once this chunk is written


@dataclass(slots=True)
class StepBatch:
    """Tokens of many sequences laid end to end: `decodes` one-token rows, then prefill spans.

    Attention contract: the K and V of **all** rows are written to the pool before
    any row of the same layer attends, so a row may read pages that another
    sequence fills in this very step. A row at slot index i of its table (slots
    counted along the table, page by page) attends slots 0..i, or with a sliding
    window w slots max(0, i-w+1)..i. Rotary positions are given apart from slot
    indices, so a table may later lack pages from its middle.

    Shapes: T rows, D decodes, P the longest decode table of the batch.
    """

    tokens: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T], page * page_size + offset: where each row's K and V go
    decodes: int  # D
    decode_tables: Tensor  # int64 [D, P], padded with page 0
    decode_contexts: Tensor  # int64 [D], filled slots including the row's own
    max_decode_context: int  # the largest of them, 0 when D is 0
    prefills: list[PrefillSpan]
    logit_rows: Tensor  # int64 [L], rows whose logits are wanted, ascending
