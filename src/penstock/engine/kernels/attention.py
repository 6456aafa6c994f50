"""Attention of a ragged batch over pages.

What the layers of one step share (which pages, which masks) is worked out once,
in `plan`; `attend` then does one layer. `attend_plainly` is the same thing
said as the definition says it: slow, and what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kv import KVPages
from penstock.engine.model.batch import PrefillSpan, StepBatch

# Rows of a prefill that attend together when a mask is needed: bounds the mask
# to this many times the context, and skips most of what causality forbids.
BLOCK_ROWS = 256


# Decodes whose gathered K and V take up to this many bytes attend together: on a
# CPU the copy must still be in cache when it is multiplied.
GROUP_BYTES = 4 << 20

# In bf16 on a CPU, PyTorch's fused attention multiplies head by head and spends
# its time on calls; from this many gathered numbers on, two batched products win.
PRODUCTS_FROM = 1 << 18


@dataclass(slots=True)
class Group:
    """Decodes `start:end` attend together, each over the first `slots` slots of its table."""

    start: int
    end: int
    pages: Tensor  # int64 [rows * pages of the longest]
    slots: int
    masks: dict[int | None, Tensor | None]  # by window, additive [rows, 1, 1, slots]


@dataclass(slots=True)
class Block:
    """Rows `start:end` of a prefill attend slots `first:last` of their sequence."""

    start: int
    end: int
    first: int
    last: int
    mask: Tensor | None  # additive [rows, slots]; None: the plain causal triangle


@dataclass(slots=True)
class Prefill:
    """The blocks of one prefill span, by window."""

    pages: Tensor
    blocks: dict[int | None, list[Block]]


@dataclass(slots=True)
class Plan:
    """What all layers of one step share."""

    groups: list[Group]
    prefills: list[Prefill]


def plan(
    batch: StepBatch,
    windows: Collection[int | None],
    *,
    page_size: int,
    slot_bytes: int,
    dtype: torch.dtype,
) -> Plan:
    """Prepare a step.

    `windows` are the sliding windows of the model's layers, `slot_bytes` the K
    and V of one slot in the largest of them, `dtype` that of the queries.
    """
    groups = []
    for start, end, context in _together(batch, slot_bytes):
        width = -(-context // page_size)
        slots = context if end - start == 1 else width * page_size
        contexts = batch.decode_contexts[start:end, None]
        groups.append(
            Group(
                start,
                end,
                batch.decode_tables[start:end, :width].flatten(),
                slots,
                {window: _decode_mask(contexts, slots, window, dtype) for window in windows},
            )
        )
    prefills = [
        Prefill(span.table, {window: _blocks(span, window, dtype) for window in windows})
        for span in batch.prefills
    ]
    return Plan(groups, prefills)


def attend(q: Tensor, pages: KVPages, plan: Plan, window: int | None) -> Tensor:
    """Softmax attention of one layer, scaled by 1/sqrt(head_dim).

    `q` is [T, heads, head_dim]; the K and V of all T rows are in `pages`
    already. Returns [T, heads * head_dim].
    """
    out = [
        _decode(q[group.start : group.end], pages.gather(group.pages), group, window)
        for group in plan.groups
    ]
    for prefill in plan.prefills:
        kv = pages.gather(prefill.pages).flatten(2, 3)  # [2, kv_heads, slots, head_dim]
        out += [_prefill(q[block.start : block.end], kv, block) for block in prefill.blocks[window]]
    return out[0] if len(out) == 1 else torch.cat(out)


def _decode(q: Tensor, kv: Tensor, group: Group, window: int | None) -> Tensor:
    rows, mask = len(q), group.masks[window]
    _, kv_heads, _, _, head_dim = kv.shape
    # The query heads of one KV head stand as rows of one small matrix, so that its
    # K and V are read once: [rows, kv_heads, heads / kv_heads, head_dim].
    q = q.view(rows, kv_heads, -1, head_dim)
    kv = kv.view(2, kv_heads, rows, -1, head_dim)[:, :, :, : group.slots]
    if kv.dtype == torch.bfloat16 and kv.device.type == "cpu" and kv.numel() >= PRODUCTS_FROM:
        out = _batched_products(q, kv, mask)
    else:
        k, v = kv.transpose(1, 2)  # each [rows, kv_heads, slots, head_dim]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.reshape(rows, -1)


def _batched_products(q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `q` [rows, kv_heads, group, dim] as two batched matrix products."""
    _, kv_heads, rows, slots, head_dim = kv.shape
    k, v = kv.flatten(1, 2)  # each [kv_heads * rows, slots, head_dim]
    q = q.transpose(0, 1).flatten(0, 1) * head_dim**-0.5
    scores = torch.bmm(q, k.transpose(1, 2)).view(kv_heads, rows, -1, slots)
    if mask is not None:
        scores += mask[:, 0]
    out = torch.bmm(scores.softmax(-1).flatten(0, 1), v)
    return out.view(kv_heads, rows, -1, head_dim).transpose(0, 1)


def _prefill(q: Tensor, kv: Tensor, block: Block) -> Tensor:
    k, v = kv[:, None, :, block.first : block.last]  # each [1, kv_heads, slots, head_dim]
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],  # [1, heads, rows, head_dim]
        k,
        v,
        attn_mask=block.mask,
        is_causal=block.mask is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1).flatten(1)


def _together(batch: StepBatch, slot_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Decodes that attend together: first row, row after the last, longest context."""
    if batch.tokens.device.type != "cpu":
        if batch.decodes:
            yield 0, batch.decodes, batch.max_decode_context
        return
    start, longest = 0, 0
    for row, context in enumerate(batch.decode_contexts.tolist()):
        if row > start and (row + 1 - start) * max(longest, context) * slot_bytes > GROUP_BYTES:
            yield start, row, longest
            start, longest = row, 0
        longest = max(longest, context)
    if batch.decodes:
        yield start, batch.decodes, longest


def _decode_mask(
    contexts: Tensor, slots: int, window: int | None, dtype: torch.dtype
) -> Tensor | None:
    if window is not None and window >= slots:
        window = None
    if len(contexts) == 1 and window is None:
        return None  # one sequence has nothing to hide
    slot = torch.arange(slots, device=contexts.device)
    hidden = slot >= contexts
    if window is not None:
        hidden |= slot < contexts - window
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
        first = 0 if window is None else max(0, context - window)
        kv = pages.gather(table).flatten(2, 3)[:, :, first:context].float()
        k, v = kv.repeat_interleave(heads // kv.shape[1], dim=1)  # each [heads, slots, head_dim]
        scores = torch.einsum("hd,hsd->hs", q[row].float(), k) / head_dim**0.5
        out.append(torch.einsum("hs,hsd->hd", scores.softmax(-1), v).flatten())
    return torch.stack(out).to(q.dtype)
