"""The fast products and norms equal the plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from penstock.engine.kernels.linear import linear, pack
from penstock.engine.kernels.norm import RMSNorm

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 2**-7  # of the largest value: bf16 keeps 8 bits


@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 33, 200])
@pytest.mark.parametrize("shape", [(48, 64), (300, 40), (7, 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_linear_equals_plain(dtype, rows, shape, biased):
    torch.manual_seed(0)
    weight, x = torch.randn(shape).to(dtype), torch.randn(rows, shape[1]).to(dtype)
    bias = torch.randn(shape[0]).to(dtype) if biased else None
    with torch.inference_mode():
        packed = pack(weight)
        ours = linear(x, packed, bias)
        again = linear(x, packed, bias)
    theirs = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert ours.dtype == dtype
    assert torch.equal(ours, again)
    assert (ours - theirs).abs().max() < tolerance(dtype) * theirs.abs().max()
    assert packed.shape == weight.shape
    assert packed.nbytes >= weight.nbytes  # so that counts need not know of packing


@DTYPES
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0], ids=["below eps", "usual", "large"])
def test_norm_equals_its_definition(dtype, scale):
    torch.manual_seed(0)
    x, weight = (scale * torch.randn(9, 3, 40)).to(dtype), torch.randn(40).to(dtype)
    ours = RMSNorm(weight, 1e-6)(x)
    wide = x.double()
    theirs = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    assert ours.dtype == dtype
    assert (ours - theirs).abs().max() < tolerance(dtype) * theirs.abs().max()


def test_norm_of_zeros_is_zero():
    assert RMSNorm(torch.ones(8), 1e-6)(torch.zeros(2, 8)).tolist() == [[0.0] * 8] * 2
