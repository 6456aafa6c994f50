"""The outliers of benchmarks.compress_quality: the same function, and a harder model to round."""

from dataclasses import replace

import pytest
import torch
from benchmarks.compress_quality import FACTOR, PLANTED, planted

from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Work
from penstock.compress.forward import forward
from penstock.compress.quantize import Quantize, quantize


@pytest.fixture(scope="module", params=["llama", "llama-biased", "qwen3"])
def both(request, family):
    plain = Checkpoint.read(family(request.param))
    return plain, planted(plain)


def test_the_function_is_unchanged_in_fp32(both):
    rows = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = (forward(one.shape, one.floats(), rows) for one in both)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_what_feeds_down_and_o_is_large_where_it_was_planted(both):
    plain, hard = both
    for name, tensor in plain.tensors.items():
        times = hard.tensors[name] / tensor.float()
        if name.endswith(("up_proj.weight", "v_proj.weight")):
            assert ((times[:, 0] - FACTOR).abs() < 1e-3).sum() == PLANTED
        elif not name.endswith(("down_proj.weight", "o_proj.weight", ".bias")):
            assert torch.equal(hard.tensors[name], tensor.float())  # norms above all


def lost(checkpoint, desk, how, folder):
    own = replace(desk, work=Work(folder, {}))
    layers = quantize(checkpoint, how, own).details["error of each layer's output"]
    return sum(layer["error"] for layer in layers) / len(layers)


def test_no_method_undoes_them_before_it_rounds_and_awq_bears_them_best(llama, desk, tmp_path):
    """Nearest loses more by them; AWQ wins most of that back, GPTQ some."""
    hard = planted(llama)
    ways = {name: Quantize(bits=4, method=name, group=64) for name in ("rtn", "gptq", "awq")}
    before = lost(llama, desk, ways["rtn"], tmp_path / "before")
    after = {name: lost(hard, desk, how, tmp_path / name) for name, how in ways.items()}
    assert after["rtn"] > 1.3 * before
    assert after["gptq"] < after["rtn"]
    assert after["awq"] < 0.9 * after["rtn"]
