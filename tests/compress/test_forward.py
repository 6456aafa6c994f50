"""The model as a function is the model that transformers runs."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.compress import forward
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.sites import SITES, absorb, see
from tests.compress.conftest import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(family, name):
    checkpoint = Checkpoint.read(family(name))
    theirs = AutoModelForCausalLM.from_pretrained(family(name), dtype=torch.float32)
    tokens = torch.randint(0, 256, (2, 40))
    with torch.no_grad():
        wanted = theirs(input_ids=tokens).logits
        ours = forward.forward(checkpoint.shape, checkpoint.floats(), tokens)
    torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_scaling_the_inputs_of_a_site_leaves_its_layer_as_it_was(family, name, site):
    checkpoint = Checkpoint.read(family(name))
    weights, shape = checkpoint.floats(), checkpoint.shape
    x = torch.randn(2, 9, shape.hidden_size)
    before = forward.layer(shape, weights, 1, x)
    own = {k: v.float() for k, v in checkpoint.layer(1).items()}
    inputs = own[f"{site.matrices[0]}.weight"].shape[1]
    by = absorb(own, shape.layers[1], site, torch.rand(inputs) * 3 + 0.2, torch.bfloat16)
    assert by.std() > 0.1
    weights |= {f"model.layers.1.{name}": tensor for name, tensor in own.items()}
    torch.testing.assert_close(forward.layer(shape, weights, 1, x), before, atol=1e-4, rtol=1e-4)


def test_what_a_site_sees_is_the_mean_over_tokens(llama):
    x = torch.randn(6, 5, 128)
    seen, out = see(llama.shape, llama.floats(), 0, x, batch=4)
    torch.testing.assert_close(out, forward.layer(llama.shape, llama.floats(), 0, x))
    heard = {}
    forward.layer(llama.shape, llama.floats(), 0, x, lambda name, h: heard.update({name: h}))
    for name, each in seen.items():
        flat = heard[name].flatten(0, 1)
        torch.testing.assert_close(each.gram, flat.T @ flat / 30, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(each.size, flat.abs().mean(0))
