"""Quantized K and V come back as near as their format promises, and take as few bytes."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.kernels.quantized import Int4Pages, Int8Pages, hadamard
from penstock.engine.kv import KVLayer

CPU = torch.device("cpu")
KV_HEADS, PAGE_SIZE = 2, 16


def kept(storage, rows):
    """`rows` [T, 2 * KV_HEADS, head_dim] as they come back."""
    pages = -(-len(rows) // PAGE_SIZE)
    store = storage(KVLayer(KV_HEADS, rows.shape[-1]), pages, PAGE_SIZE, torch.float32, CPU)
    store.write(torch.arange(len(rows)), rows)
    back = store.gather(torch.arange(pages)).flatten(2, 3).flatten(0, 1)
    return back.transpose(0, 1)[: len(rows)]


@pytest.mark.parametrize("head_dim", [2, 16, 48, 64, 80, 128])
def test_hadamards_matrix_is_its_own_inverse(head_dim):
    matrix = hadamard(head_dim, CPU)
    assert torch.allclose(matrix @ matrix, torch.eye(head_dim), atol=1e-6)
    size = head_dim & -head_dim
    assert torch.allclose(matrix[:size, :size].abs(), torch.tensor(size**-0.5))


@pytest.mark.parametrize("storage", [Int8Pages, Int4Pages])
@pytest.mark.parametrize("head_dim", [32, 48, 64, 128])
def test_no_number_is_off_by_more_than_half_a_step(storage, head_dim):
    torch.manual_seed(head_dim)
    rows = torch.randn(300, 2 * KV_HEADS, head_dim)
    rows[5] *= 1e4
    rows[6] *= 1e-4
    rows[7] += 20
    off = kept(storage, rows) - rows
    if storage is Int8Pages:
        step = rows.abs().amax(-1, keepdim=True) / 127
    else:
        spread = rows @ hadamard(head_dim, CPU)
        off = off @ hadamard(head_dim, CPU)
        step = (spread.amax(-1, keepdim=True) - spread.amin(-1, keepdim=True)) / 15
    assert (off.abs() / step).max() < 0.54  # the grid itself is in bf16


@pytest.mark.parametrize("storage", [Int8Pages, Int4Pages])
def test_zeros_stay_zeros(storage):
    assert not kept(storage, torch.zeros(3, 2 * KV_HEADS, 32)).any()


def test_a_large_channel_spoils_little_of_int4():
    torch.manual_seed(0)
    rows = torch.randn(300, 2 * KV_HEADS, 64)
    rows[:, :, 5] = 20
    lost = (kept(Int4Pages, rows) - rows)[:, :, :5].square().mean().sqrt()
    assert lost < 0.25  # steps of 22 / 15, which one scale would take as they are, lose 0.42


@pytest.mark.parametrize("head_dim", [64, 128])
def test_int4_takes_half_of_int8(head_dim):
    layer = KVLayer(KV_HEADS, head_dim)
    large, small = (
        storage(layer, 3, PAGE_SIZE, torch.bfloat16, CPU).bytes_per_page
        for storage in (Int8Pages, Int4Pages)
    )
    assert large == 2 * KV_HEADS * PAGE_SIZE * (head_dim + 4)
    assert small == 2 * KV_HEADS * PAGE_SIZE * (head_dim // 2 + 4)
