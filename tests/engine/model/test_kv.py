"""The KV store keeps what its contract says."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.kv import KVLayer, KVStore


def test_rows_come_back_from_where_they_were_written():
    kv = KVStore([KVLayer(3, 8), KVLayer(1, 4)], 10, 4, torch.float32, "cpu")
    first, second = torch.randn(3, 6, 8), torch.randn(3, 2, 4)
    slots = torch.tensor([4 * 7 + 2, 4 * 2, 4 * 7 + 3])
    kv.layer(0).write(slots, first)
    kv.layer(1).write(slots, second)
    for layer, rows in ((0, first), (1, second)):
        got = kv.layer(layer).gather(torch.tensor([2, 7]))
        assert got.shape == (2, rows.shape[1] // 2, 2, 4, rows.shape[2])
        assert got.is_contiguous()
        got = got.flatten(0, 1)  # K's heads, then V's
        assert torch.equal(got[:, 1, 2], rows[0])
        assert torch.equal(got[:, 0, 0], rows[1])
        assert torch.equal(got[:, 1, 3], rows[2])
        assert got.count_nonzero() == rows.numel()  # and nothing else was touched


def test_sizes_count_shared_layers_once():
    layers = [KVLayer(2, 16), KVLayer(4, 8), KVLayer(2, 16, shares=0), KVLayer(2, 16, shares=2)]
    kv = KVStore(layers, 5, 8, torch.bfloat16, "cpu")
    assert kv.bytes_per_token == 2 * 2 * (2 * 16 + 4 * 8)
    assert kv.bytes_per_page == 8 * kv.bytes_per_token
    assert kv.layer(3) is kv.layer(2) is kv.layer(0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([KVLayer(2, 16, shares=0)], "not earlier"),
        ([KVLayer(2, 16), KVLayer(2, 16, shares=5)], "not earlier"),
        ([KVLayer(2, 16), KVLayer(1, 16, shares=0)], "1 KV heads of 16"),
    ],
)
def test_impossible_sharing_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        KVStore(layers, 4, 16, torch.float32, "cpu")


def test_dtype_without_a_storage_format_is_refused():
    with pytest.raises(ValueError, match="float16"):
        KVStore([KVLayer(2, 16)], 4, 16, torch.float16, "cpu")
