"""The batched attention equals the definition, one row at a time."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.kernels import attention
from penstock.engine.kv import KVLayer, KVStore
from penstock.engine.model.batch import PrefillSpan, StepBatch

PAGE_SIZE = 16
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16


def random_step(
    decodes: list[int], spans: list[tuple[int, int]], dtype: torch.dtype
) -> tuple[StepBatch, KVStore, torch.Tensor]:
    """Decodes by context, spans by (rows, context); every slot holds random K and V."""
    torch.manual_seed(1)
    pages = 200
    kv = KVStore([KVLayer(KV_HEADS, HEAD_DIM)], pages, PAGE_SIZE, dtype, "cpu")
    slots = torch.arange(pages * PAGE_SIZE)
    kv.layer(0).write(slots, torch.randn(len(slots), 2 * KV_HEADS, HEAD_DIM).to(dtype))
    ids = torch.randperm(pages)

    def table(context: int) -> torch.Tensor:
        nonlocal ids
        count = -(-context // PAGE_SIZE)
        taken, ids = ids[:count], ids[count:]
        return taken

    tables = [table(context) for context in decodes]
    width = max((len(t) for t in tables), default=0)
    padded = torch.zeros(len(decodes), width, dtype=torch.int64)
    for row, pages_of in enumerate(tables):
        padded[row, : len(pages_of)] = pages_of
    start, prefills = len(decodes), []
    for rows, context in spans:
        prefills.append(PrefillSpan(start, start + rows, table(context), context))
        start += rows
    nothing = torch.empty(0, dtype=torch.int64)
    batch = StepBatch(
        tokens=torch.zeros(start, dtype=torch.int64),
        positions=nothing,
        slots=nothing,
        decodes=len(decodes),
        decode_tables=padded,
        decode_contexts=torch.tensor(decodes, dtype=torch.int64),
        max_decode_context=max(decodes, default=0),
        prefills=prefills,
        logit_rows=nothing,
    )
    return batch, kv, torch.randn(start, HEADS, HEAD_DIM).to(dtype)


STEPS = {
    "one decode": ([37], []),
    "decodes": ([1, 16, 17, 100, 250, 3], []),
    "whole prompt": ([], [(45, 45)]),
    "chunk at the end": ([], [(30, 75)]),
    "one-row chunk": ([], [(1, 33)]),
    "everything": ([20, 5, 64], [(64, 64), (50, 200), (1, 1), (7, 23)]),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("window", [None, 1, 20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_attend_equals_the_definition(monkeypatch, step, window, dtype, cut):
    batch, kv, q = random_step(*STEPS[step], dtype)
    slot_bytes = kv.bytes_per_token
    if cut:  # many groups, many blocks, and in bf16 the batched products
        monkeypatch.setattr(attention, "GROUP_BYTES", 40 * slot_bytes)
        monkeypatch.setattr(attention, "BLOCK_ROWS", 8)
        monkeypatch.setattr(attention, "PRODUCTS_FROM", 0)
    plan = attention.plan(batch, {window}, page_size=PAGE_SIZE, slot_bytes=slot_bytes, dtype=dtype)
    if cut and step == "decodes":
        assert len(plan.groups) > 2
    ours = attention.attend(q, kv.layer(0), plan, window)
    theirs = attention.attend_plainly(q, kv.layer(0), batch, window)
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.04
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_a_sliding_window_reads_only_the_pages_it_needs():
    batch, kv, _ = random_step([250, 5, 40], [(30, 230)], torch.float32)
    plan = attention.plan(
        batch, {20}, page_size=PAGE_SIZE, slot_bytes=kv.bytes_per_token, dtype=torch.float32
    )
    [group], [prefill] = plan.groups, plan.prefills
    table, _ = group.reads[20]
    assert len(table) == 3 * 3  # three rows, 20 slots over at most three pages of 16
    [block] = prefill.blocks[20]
    assert (block.first, block.last) == (230 - 30 - 19, 230)


def test_definition_on_numbers_worked_out_by_hand():
    """Two slots with equal scores: the mean of their values; a window of one: the last value."""
    kv = KVStore([KVLayer(1, 2)], 1, PAGE_SIZE, torch.float32, "cpu")
    rows = torch.tensor([[[1.0, 0.0], [2.0, 4.0]], [[1.0, 0.0], [6.0, 8.0]]])
    kv.layer(0).write(torch.tensor([0, 1]), rows)
    batch, _, _ = random_step([2], [], torch.float32)
    batch.decode_tables.zero_()
    q = torch.tensor([[[3.0, 5.0]]])
    mean = attention.attend_plainly(q, kv.layer(0), batch, None)
    last = attention.attend_plainly(q, kv.layer(0), batch, 1)
    assert mean.tolist() == [[4.0, 6.0]]
    assert last.tolist() == [[6.0, 8.0]]


def test_causal_triangle_without_a_mask_is_the_masked_one():
    """What other devices use for whole prompts equals what a CPU uses."""
    torch.manual_seed(2)
    q, kv = torch.randn(40, HEADS, HEAD_DIM), torch.randn(2, KV_HEADS, 40, HEAD_DIM)
    band = attention._band(40, 40, None, torch.float32, torch.device("cpu"))
    [block] = attention._blocks(PrefillSpan(0, 40, torch.arange(3), 40), None, band)
    torch.testing.assert_close(
        attention._prefill(q, kv, None), attention._prefill(q, kv, block.mask)
    )
