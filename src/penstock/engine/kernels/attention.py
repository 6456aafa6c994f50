"""Attention of a ragged batch over pages.

What the layers of one step share (which pages, which masks) is worked out once,
in `plan`; `attend` then does one layer. `attend_plainly` is the same thing
said as the definition says it: slow, and what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kv import KVPages
from penstock.engine.model.batch import PrefillSpan, StepBatch

# Rows of a prefill that attend together when a mask is needed: bounds the mask
# to this many times the context, and skips most of what causality forbids.
BLOCK_ROWS = 256


@dataclass(slots=True)
class Block:
    """Rows `start:end` of the batch attend slots `first:last` of their sequence."""

    start: int
    end: int
    first: int
    last: int
    mask: Tensor | None  # additive [rows, slots]; None: the plain causal triangle


@dataclass(slots=True)
class Plan:
    """What all layers of one step share. Masks and blocks are kept by window."""

    decodes: int
    decode_pages: Tensor  # int64 [D * P]
    decode_context: int  # slots the decodes attend, the longest of them
    decode_masks: dict[int | None, Tensor | None]  # additive [D, 1, 1, slots]
    prefill_pages: list[Tensor]
    prefill_blocks: dict[int | None, list[list[Block]]]  # by window, then by span


def plan(batch: StepBatch, windows: Collection[int | None], dtype: torch.dtype) -> Plan:
    """Prepare a step for layers whose sliding windows are `windows`, queries of `dtype`."""
    return Plan(
        decodes=batch.decodes,
        decode_pages=batch.decode_tables.flatten(),
        decode_context=batch.max_decode_context,
        decode_masks={window: _decode_mask(batch, window, dtype) for window in windows},
        prefill_pages=[span.table for span in batch.prefills],
        prefill_blocks={
            window: [_blocks(span, window, dtype) for span in batch.prefills] for window in windows
        },
    )


def attend(q: Tensor, pages: KVPages, plan: Plan, window: int | None) -> Tensor:
    """Softmax attention of one layer, scaled by 1/sqrt(head_dim).

    `q` is [T, heads, head_dim]; the K and V of all T rows are in `pages`
    already. Returns [T, heads * head_dim].
    """
    out: list[Tensor] = []
    if plan.decodes:
        mask = plan.decode_masks[window]
        out.append(_decode(q[: plan.decodes], pages.gather(plan.decode_pages), plan, mask))
    for table, blocks in zip(plan.prefill_pages, plan.prefill_blocks[window], strict=True):
        kv = pages.gather(table).flatten(0, 1).permute(1, 2, 0, 3)  # [2, heads, slots, head_dim]
        out.extend(_prefill(q[block.start : block.end], kv, block) for block in blocks)
    return out[0] if len(out) == 1 else torch.cat(out)


def _decode(q: Tensor, kv: Tensor, plan: Plan, mask: Tensor | None) -> Tensor:
    kv_heads, head_dim = kv.shape[-2:]
    # The query heads of one KV head stand as rows of one small matrix, so K and V
    # are read once a group: [D, kv_heads, group, head_dim].
    grouped = q.view(plan.decodes, kv_heads, -1, head_dim)
    kv = kv.view(plan.decodes, -1, 2, kv_heads, head_dim)[:, : plan.decode_context]
    k, v = kv.permute(2, 0, 3, 1, 4)  # each [D, kv_heads, slots, head_dim]
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return out.reshape(plan.decodes, -1)


def _prefill(q: Tensor, kv: Tensor, block: Block) -> Tensor:
    k, v = kv[None, :, :, block.first : block.last].unbind(1)  # each [1, kv_heads, slots, dim]
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],  # [1, heads, rows, head_dim]
        k,
        v,
        attn_mask=block.mask,
        is_causal=block.mask is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1).flatten(1)


def _decode_mask(batch: StepBatch, window: int | None, dtype: torch.dtype) -> Tensor | None:
    longest = batch.max_decode_context
    if window is not None and window >= longest:
        window = None
    if batch.decodes <= 1 and window is None:
        return None  # one sequence has nothing to hide
    slots = torch.arange(longest, device=batch.tokens.device)
    contexts = batch.decode_contexts[:, None]
    hidden = slots >= contexts
    if window is not None:
        hidden |= slots < contexts - window
    return _additive(hidden, dtype)[:, None, None, :]


def _blocks(span: PrefillSpan, window: int | None, dtype: torch.dtype) -> list[Block]:
    """Cut the rows of `span` into blocks that attend together."""
    start, end, context, device = span.start, span.end, span.context, span.table.device
    cached = context - (end - start)  # slots filled before this step
    if cached == 0 and (window is None or window >= context):
        return [Block(start, end, 0, context, None)]
    blocks = []
    for row in range(start, end, BLOCK_ROWS):
        stop = min(row + BLOCK_ROWS, end)
        slot, last = cached + row - start, cached + stop - start  # slots of the block's own rows
        first = 0 if window is None else max(0, slot - window + 1)
        rows = torch.arange(slot, last, device=device)[:, None]
        slots = torch.arange(first, last, device=device)
        hidden = slots > rows
        if window is not None:
            hidden |= slots <= rows - window
        blocks.append(Block(row, stop, first, last, _additive(hidden, dtype)))
    return blocks


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
        hidden, float("-inf")
    )


def attend_plainly(q: Tensor, pages: KVPages, batch: StepBatch, window: int | None) -> Tensor:
    """Attention as `StepBatch` defines it, one row at a time: the reference of the tests."""
    _, heads, head_dim = q.shape
    rows = [(row, batch.decode_tables[row], int(n)) for row, n in enumerate(batch.decode_contexts)]
    for span in batch.prefills:
        first = span.context - (span.end - span.start) + 1
        rows += [(span.start + i, span.table, first + i) for i in range(span.end - span.start)]
    out = []
    for row, table, context in rows:
        kv = pages.gather(table).flatten(0, 1)[:context].float()
        if window is not None:
            kv = kv[-window:]
        k, v = kv.repeat_interleave(heads // kv.shape[2], dim=2).unbind(1)  # [slots, heads, dim]
        scores = torch.einsum("hd,shd->hs", q[row].float(), k) / head_dim**0.5
        out.append(torch.einsum("hs,shd->hd", scores.softmax(-1), v).flatten())
    return torch.stack(out).to(q.dtype)
