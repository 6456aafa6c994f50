"""What is worth nothing goes first, and what is left is the model without it."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.compress import forward
from penstock.compress.depth import Depth, prune_depth, without
from penstock.compress.quality import log_probabilities
from penstock.compress.sparse import Sparsify, sparsify
from penstock.compress.width import NEURONS, Width, prune_width
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions

FP32 = EngineOptions(dtype="fp32", kernels="torch")
TOKENS = torch.arange(40)[None]


def logits(checkpoint):
    with torch.no_grad():
        return forward.forward(checkpoint.shape, checkpoint.floats(), TOKENS)


def served(checkpoint, directory):
    """The same by the engine, log probabilities."""
    checkpoint.write(directory, {})
    rows = torch.cat((TOKENS, TOKENS[:, :1]), 1)
    return next(log_probabilities(LLM(str(directory), FP32), rows))


def idle(checkpoint, *layers):
    """The model with layers that add nothing."""
    tensors = dict(checkpoint.tensors)
    for index in layers:
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            key = f"model.layers.{index}.{name}.weight"
            tensors[key] = torch.zeros_like(tensors[key])
    return checkpoint.having(tensors)


@pytest.mark.parametrize("order", ["influence", "loss"])
def test_layers_that_add_nothing_go_first(llama, desk, order, tmp_path):
    lazy = idle(llama, 1, 2)
    made = prune_depth(lazy, Depth(layers=2, order=order), desk)
    assert made.details["layers taken out"] == [{"layer": 1}, {"layer": 2}]
    torch.testing.assert_close(logits(made.checkpoint), logits(lazy))
    wanted = logits(lazy)[0].log_softmax(-1)
    torch.testing.assert_close(
        served(made.checkpoint, tmp_path / "x"), wanted, atol=1e-3, rtol=1e-3
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float32)
    with torch.no_grad():
        said = theirs(input_ids=TOKENS).logits[0].log_softmax(-1)
    torch.testing.assert_close(said, wanted, atol=1e-3, rtol=1e-3)


def test_one_by_one_is_the_best_at_each_step(llama, desk):
    steps = prune_depth(llama, Depth(layers=2), desk).details["loss as layers go"]
    gone: set[int] = set()
    for step in steps:
        losses = {}
        for index in set(range(4)) - gone:
            left = without(llama, gone | {index})
            losses[index] = forward.loss(left.shape, left.floats(), desk.rows)
        assert step["layer"] == min(losses, key=losses.__getitem__)
        assert step["loss"] == pytest.approx(losses[step["layer"]], rel=1e-4)
        gone.add(step["layer"])


def test_a_random_order_is_that_of_its_seed(llama, desk):
    found = {
        seed: prune_depth(llama, Depth(layers=2, order="random", seed=seed), desk).details
        for seed in range(6)
    }
    assert found[0] == prune_depth(llama, Depth(layers=2, order="random"), desk).details
    assert len({str(each) for each in found.values()}) > 1


def test_as_many_layers_as_there_are_cannot_go(llama, desk):
    with pytest.raises(ValueError, match="layers=4 must lie between 1 and 3"):
        prune_depth(llama, Depth(layers=4), desk)


@pytest.mark.parametrize("importance", ["activation", "taylor"])
def test_neurons_and_heads_that_add_nothing_go_first(llama, desk, importance, tmp_path):
    """Half of the neurons and one of two KV heads are muted; without them all is as it was."""
    tensors = dict(llama.tensors)
    for index in range(4):
        down = tensors[f"model.layers.{index}.mlp.down_proj.weight"].clone()
        down[:, 3:131] = 0
        output = tensors[f"model.layers.{index}.self_attn.o_proj.weight"].clone()
        output[:, 64:] = 0  # query heads 2 and 3, those of KV head 1
        tensors[f"model.layers.{index}.mlp.down_proj.weight"] = down
        tensors[f"model.layers.{index}.self_attn.o_proj.weight"] = output
    muted = llama.having(tensors)
    how = Width(neurons=1 / 3, heads=0.5, importance=importance)
    made = prune_width(muted, how, desk).checkpoint
    assert made.config["intermediate_size"] == 64
    assert made.config["num_attention_heads"] == 2
    assert made.config["num_key_value_heads"] == 1
    torch.testing.assert_close(logits(made), logits(muted), atol=1e-4, rtol=1e-4)
    made.write(tmp_path / "x", {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float32)
    with torch.no_grad():
        said = theirs(input_ids=TOKENS).logits
    torch.testing.assert_close(said, logits(muted), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["llama-biased", "qwen2", "qwen3"])
def test_biases_and_norms_of_queries_go_along(family, desk, name, tmp_path):
    from penstock.compress.checkpoint import Checkpoint

    made = prune_width(Checkpoint.read(family(name)), Width(neurons=0.67, heads=0.5), desk)
    wanted = logits(made.checkpoint)[0].log_softmax(-1)
    torch.testing.assert_close(
        served(made.checkpoint, tmp_path / "x"), wanted, atol=1e-3, rtol=1e-3
    )


def test_uneven_widths_are_ours_alone(llama, desk, tmp_path):
    """A layer of small worth keeps less; this engine serves it and transformers refuses it."""
    tensors = dict(llama.tensors)
    name = "model.layers.2.mlp.down_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][:, 64:] *= 1e-3
    made = prune_width(llama.having(tensors), Width(neurons=0.67, uneven=True), desk).checkpoint
    widths = [layer.ffn_size for layer in made.shape.layers]
    assert widths[2] == NEURONS < max(widths)
    assert sum(widths) == 4 * 2 * NEURONS
    wanted = logits(made)[0].log_softmax(-1)
    torch.testing.assert_close(served(made, tmp_path / "x"), wanted, atol=1e-3, rtol=1e-3)
    with pytest.raises(RuntimeError, match="size mismatch|ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "x")


def test_keeping_everything_or_nothing_is_refused(llama, desk):
    for how, said in (
        (Width(), "keep everything"),
        (Width(neurons=0), "neurons=0 must lie above 0"),
        (Width(heads=1.2), "heads=1.2 must lie above 0 and at most at 1"),
    ):
        with pytest.raises(ValueError, match=said):
            prune_width(llama, how, desk)


def test_the_least_products_become_zero(llama, desk):
    made = sparsify(llama, Sparsify(share=0.25), desk).checkpoint
    for name, tensor in made.tensors.items():
        if ".mlp." in name or ".self_attn." in name:
            assert (tensor == 0).float().mean(1).allclose(torch.tensor(0.25), atol=0.005)
            kept = tensor != 0
            assert torch.equal(tensor[kept], llama.tensors[name][kept])


def test_two_of_each_four_become_zero(llama, desk):
    made = sparsify(llama, Sparsify(pattern="2:4"), desk).checkpoint
    weight = made.tensors["model.layers.3.mlp.gate_proj.weight"]
    assert ((weight.unflatten(1, (-1, 4)) == 0).sum(-1) == 2).all()
    with pytest.raises(ValueError, match=r"zeros=0\.3 must be 0\.5 with pattern=2:4"):
        sparsify(llama, Sparsify(share=0.3, pattern="2:4"), desk)


def test_wanda_loses_less_than_magnitude_alone(desk, llama):
    """Inputs of unlike size: what counts is the product."""
    from penstock.compress.sparse import wanda

    x = torch.randn(500, 128) * torch.logspace(-1, 1, 128)
    weight = torch.randn(64, 128)
    how = Sparsify(share=0.5)

    def lost(kept):
        return float(((weight * ~kept) @ x.T).square().sum())

    by_product = wanda(weight, x.square().mean(0).sqrt(), how)
    by_size = wanda(weight, torch.ones(128), how)
    assert lost(by_product) < 0.5 * lost(by_size)
