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

# Rows of a prefill that attend together, which bounds the scores in memory and
# skips most of what causality forbids: PyTorch's own causal attention on a CPU
# computes all of it for prompts of up to 512 rows.
BLOCK_ROWS = 128

# Decodes whose gathered K and V take up to this many bytes attend together: on a
# CPU the copy must still be in cache when it is multiplied.
GROUP_BYTES = 8 << 20

# In bf16 on a CPU, two batched products beat PyTorch's fused attention, except
# when they are small: from this many multiplications on.
PRODUCTS_FROM = 1 << 20


@dataclass(slots=True)
class Group:
    """Decodes `start:end` attend together, each over as many pages as the longest needs.

    By window: the pages int64 [rows * pages], and the additive mask [rows, 1, 1, slots].
    """

    start: int
    end: int
    reads: dict[int | None, tuple[Tensor, Tensor]]


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
    """The pages of one span, and its blocks by window."""

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
        tables = batch.decode_tables[start:end, : -(-context // page_size)]
        contexts = batch.decode_contexts[start:end, None]
        reads = {
            window: _decode_read(tables, contexts, window, page_size, dtype) for window in windows
        }
        groups.append(Group(start, end, reads))
    if not batch.prefills:
        return Plan(groups, [])
    rows = min(BLOCK_ROWS, max(span.end - span.start for span in batch.prefills))
    longest = max(span.context for span in batch.prefills)
    device = batch.tokens.device
    bands = {window: _band(rows, longest, window, dtype, device) for window in windows}
    prefills = [
        Prefill(span.table, {window: _blocks(span, window, band) for window, band in bands.items()})
        for span in batch.prefills
    ]
    return Plan(groups, prefills)


def attend(q: Tensor, pages: KVPages, plan: Plan, window: int | None) -> Tensor:
    """Softmax attention of one layer, scaled by 1/sqrt(head_dim).

    `q` is [T, heads, head_dim]; the K and V of all T rows are in `pages`
    already. Returns [T, heads * head_dim].
    """
    out = []
    for group in plan.groups:
        table, mask = group.reads[window]
        out.append(_decode(q[group.start : group.end], pages.gather(table), mask))
    for prefill in plan.prefills:
        kv = pages.gather(prefill.pages).flatten(2, 3)  # [2, kv_heads, slots, head_dim]
        out += [
            _prefill(q[block.start : block.end], kv[:, :, block.first : block.last], block.mask)
            for block in prefill.blocks[window]
        ]
    if len(out) == 1:
        return out[0]
    return torch.cat(out) if out else q.flatten(1)


def _decode(q: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
    rows, _, head_dim = q.shape
    kv_heads = kv.shape[1]
    # The query heads of one KV head stand as rows of one small matrix, so that its
    # K and V are read once: [rows, kv_heads, heads / kv_heads, head_dim].
    q = q.view(rows, kv_heads, -1, head_dim)
    kv = kv.view(2, kv_heads, rows, -1, head_dim)
    if _products_win(q, kv):
        out = _products(q.transpose(0, 1), kv.flatten(1, 2), mask[:, 0]).transpose(0, 1)
    else:
        k, v = kv.transpose(1, 2)  # each [rows, kv_heads, slots, head_dim]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.reshape(rows, -1)


def _prefill(q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
    rows, heads, head_dim = q.shape
    kv_heads = kv.shape[1]
    q = q.transpose(0, 1)  # [heads, rows, head_dim]
    if mask is not None and _products_win(q, kv):
        out = _products(q.view(kv_heads, -1, rows, head_dim), kv, mask).flatten(0, 1)
    else:
        k, v = kv[:, None]  # each [1, kv_heads, slots, head_dim]
        (out,) = F.scaled_dot_product_attention(
            q[None], k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != kv_heads
        )
    return out.transpose(0, 1).reshape(rows, -1)


def _products_win(q: Tensor, kv: Tensor) -> bool:
    return (
        q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and q.shape[-2] * kv.numel() >= PRODUCTS_FROM
    )


def _products(q: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
    """Attention as two batched products: `q` [kv_heads, a, b, dim], `kv` [2, N, slots, dim].

    N is kv_heads, or kv_heads * a; `mask` goes with scores [kv_heads, a, b, slots].
    """
    k, v = kv
    rows = (q * q.shape[-1] ** -0.5).reshape(len(k), -1, q.shape[-1])
    scores = torch.bmm(rows, k.transpose(1, 2)).view(*q.shape[:-1], -1).add_(mask)
    return torch.bmm(scores.softmax(-1).view(*rows.shape[:-1], -1), v).view(q.shape)


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


def _decode_read(
    tables: Tensor, contexts: Tensor, window: int | None, page_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Pages and mask of decodes with `tables` [rows, P] and `contexts` [rows, 1]."""
    width = tables.shape[1]
    if window is not None and window // page_size + 2 < width:
        # Leave out the pages that lie wholly before a row's window.
        gone = (contexts - window).clamp(min=0) // page_size
        width = window // page_size + 2
        columns = gone + torch.arange(width, device=tables.device)
        tables = tables.gather(1, columns.clamp(max=tables.shape[1] - 1))
        contexts = contexts - gone * page_size
    slots = torch.arange(width * page_size, device=tables.device)
    hidden = slots >= contexts
    if window is not None:
        hidden |= slots < contexts - window
    return tables.flatten(), _additive(hidden, dtype)[:, None, None, :]


def _band(
    rows: int, longest: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The mask of every block: it depends only on how far a slot lies from the row's own.

    Additive [rows, longest + rows]; column `longest` is the slot of the block's
    first row. A block's mask is a view of some columns.
    """
    own = torch.arange(rows, device=device)[:, None]
    slots = torch.arange(-longest, rows, device=device)
    hidden = slots > own
    if window is not None:
        hidden |= slots <= own - window
    return _additive(hidden, dtype)


def _blocks(span: PrefillSpan, window: int | None, band: Tensor) -> list[Block]:
    """Cut the rows of `span` into blocks that attend together."""
    cached = span.context - (span.end - span.start)  # slots filled before this step
    unbounded = window is None or window >= span.context
    if band.device.type != "cpu" and cached == 0 and unbounded:
        return [Block(span.start, span.end, 0, span.context, None)]
    blocks = []
    for start in range(span.start, span.end, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, span.end)
        slot = cached + start - span.start  # of the block's first row
        first = 0 if window is None else max(0, slot - window + 1)
        last = slot + end - start
        origin = band.shape[1] - band.shape[0] - slot  # the column of slot 0
        mask = band[: end - start, origin + first : origin + last]
        blocks.append(Block(start, end, first, last, mask))
    return blocks


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
        hidden, float("-inf")
    )


def watch(q: Tensor, pages: KVPages, batch: StepBatch) -> None:
    """Add up how much the watched rows attend to each of their pages, in one layer.

    `q` is [T, heads, head_dim], rotated; sliding windows are not regarded. Scores of
    all watched rows are held at once, for one KV head: they are few.
    """
    for span in batch.watched:
        rows = q[span.start : span.end].float()  # [rows, heads, head_dim]
        k = pages.gather(span.table)[0].flatten(1, 2)  # [kv_heads, slots, head_dim]
        slots = torch.arange(k.shape[1], device=q.device)
        own = torch.arange(span.context - len(rows), span.context, device=q.device)
        hidden = slots > own[:, None]
        for some, head in zip(rows.chunk(len(k), dim=1), k, strict=True):
            scores = torch.einsum("rhd,sd->hrs", some, head.float()) / q.shape[-1] ** 0.5
            weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
            span.mass += weights.sum((0, 1)).view(len(span.table), -1).sum(-1)


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
