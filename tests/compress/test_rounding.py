"""Each way of rounding loses less than the one it improves on, and packs as the field does."""

import pytest
import torch
from compressed_tensors.compressors import pack_to_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.compress import rounding
from penstock.compress.rounding import Grid
from penstock.engine.kernels.whole import packed, unpacked

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def inputs():
    """Correlated inputs with some large channels, as those of a layer are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 256, generator=generator) @ torch.randn(256, 256, generator=generator)
    x[:, :5] *= 20
    return x / 16


@pytest.fixture(scope="module")
def weight():
    return torch.randn(96, 256, generator=torch.Generator().manual_seed(1))


def lost(weight, whole, x):
    return float(((weight - whole.floats()) @ x.T).square().sum() / len(x))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_loses_less_than_rounding_to_nearest(weight, inputs, bits, group, act_order):
    group = group if bits == 4 else 256
    gram = inputs.T @ inputs / len(inputs)
    near = rounding.nearest(weight, Grid(bits, group, BF16))
    ours = rounding.gptq(weight, gram, Grid(bits, group, BF16), act_order=act_order)
    assert lost(weight, ours, inputs) < 0.5 * lost(weight, near, inputs)


def test_without_correlation_gptq_is_rounding_to_nearest(weight):
    near = rounding.nearest(weight, Grid(4, 64, BF16))
    ours = rounding.gptq(weight, torch.eye(256), Grid(4, 64, BF16), act_order=False)
    assert torch.equal(near.whole, ours.whole)
    assert torch.equal(near.scale, ours.scale)


def test_clipping_by_the_product_loses_less_than_by_the_weights(weight, inputs):
    gram = inputs.T @ inputs / len(inputs)
    own = torch.block_diag(*(gram[i : i + 64, i : i + 64] for i in range(0, 256, 64)))

    def apart(whole):
        return rounding.loss(weight - whole.floats(), own)

    near = rounding.nearest(weight, Grid(4, 64, BF16))
    assert apart(rounding.clipped(weight, gram, Grid(4, 64, BF16))) < apart(near)


def test_awq_scales_up_what_large_inputs_meet(weight, inputs):
    gram, size = inputs.T @ inputs / len(inputs), inputs.abs().mean(0)
    by = rounding.awq_scale(weight, gram, size, Grid(4, 64, BF16))
    assert by[:5].min() > 1.5 * by[5:].mean()
    scaled = rounding.nearest(weight * by, Grid(4, 64, BF16)).floats() / by
    near = rounding.nearest(weight, Grid(4, 64, BF16)).floats()
    assert rounding.loss(weight - scaled, gram) < rounding.loss(weight - near, gram)


def test_the_loss_is_that_of_the_product(weight, inputs):
    change = 0.1 * torch.randn(96, 256)
    direct = float((inputs @ change.T).square().sum() / len(inputs))
    gram = inputs.T @ inputs / len(inputs)
    assert rounding.loss(change, gram) == pytest.approx(direct, rel=1e-3)


def test_silent_inputs_and_weights_of_zero_do_no_harm(weight):
    weight = weight.clone()
    weight[3], weight[:, 64:128] = 0, 0
    x = torch.randn(300, 256)
    x[:, 10] = 0
    whole = rounding.gptq(weight, x.T @ x / 300, Grid(4, 64, BF16), act_order=False)
    back = whole.floats()
    assert back.isfinite().all()
    assert not back[3].any()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_packing_is_undone(bits, outputs, inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = -(1 << bits - 1), 1 << bits - 1
    whole = torch.randint(low, high, (outputs, inputs), generator=generator).to(torch.int8)
    assert torch.equal(unpacked(packed(whole, bits), bits, inputs), whole)


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_that_of_compressed_tensors(bits):
    whole = torch.randint(-8, 8, (6, 64)).to(torch.int8)
    assert torch.equal(packed(whole, bits), pack_to_int32(whole, bits))
