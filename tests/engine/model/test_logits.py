"""The decoder computes what transformers computes, however the rows are batched."""

from __future__ import annotations

import dataclasses
import random

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder
from penstock.engine.model.loader import load_weights
from tests.engine.model.packing import PAGE_SIZE, Packer, Sequence

FAMILIES = ["llama-2", "llama-3", "llama-3-old", "llama-biased", "mistral", "qwen2", "qwen3"]
TOLERANCE = 1e-4  # max absolute difference of logits in fp32


def prompt(length: int = 200, seed: int = 0) -> list[int]:
    return [random.Random(seed + i).randrange(3, 300) for i in range(length)]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_at_once_in_chunks_and_token_by_token(checkpoint, family):
    saved, tokens = checkpoint(family), prompt()
    decoder, theirs = saved.load(), saved.logits(prompt())
    assert theirs.std() > 0.5  # else a tolerance of 1e-4 says little
    assert_close(Packer(decoder).prefill(tokens, 200), theirs)
    assert_close(Packer(decoder).prefill(tokens, 64, 64, 72), theirs)
    assert_close(Packer(decoder).prefill(tokens, 1, 30, 169), theirs)
    packer, sequence = Packer(decoder), Sequence(tokens)
    assert_close(torch.cat([packer.step([sequence])[0] for _ in tokens]), theirs)


@pytest.mark.parametrize("page_size", [1, 7, 64])
def test_any_page_size(checkpoint, page_size):
    saved, tokens = checkpoint("mistral"), prompt()
    packer, sequence = Packer(saved.load(), page_size), Sequence(tokens)
    ours = [packer.step([], (sequence, rows))[0] for rows in (100, 90)]
    ours += [packer.step([sequence])[0] for _ in range(10)]
    assert_close(torch.cat(ours), saved.logits(tokens))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuation(checkpoint, family):
    saved, tokens = checkpoint(family), prompt(90)
    theirs = saved.reference.generate(
        torch.tensor([tokens]), max_new_tokens=40, do_sample=False, eos_token_id=None
    )
    assert Packer(saved.load()).greedy(tokens, 40) == theirs[0, 90:].tolist()


def test_generation_stops_at_any_of_several_eos_ids(checkpoint, tmp_path):
    saved, tokens = checkpoint("llama-2"), prompt(90)
    free = Packer(saved.load()).greedy(tokens, 40)
    saved.reference.save_pretrained(tmp_path)
    # The second id is one that the model says; a later first occurrence than position 0.
    end = next(token for i, token in enumerate(free) if i > 3 and token not in free[:i])
    (tmp_path / "generation_config.json").write_bytes(
        msgspec.json.encode({"eos_token_id": [299, end]})
    )
    config = ModelConfig.load(tmp_path)
    assert config.eos_token_ids == (299, end)
    ours = Packer(saved.load()).greedy(tokens, 40, config.eos_token_ids)
    theirs = saved.reference.generate(
        torch.tensor([tokens]), max_new_tokens=40, do_sample=False, eos_token_id=[299, end]
    )
    assert ours == theirs[0, 90:].tolist()
    assert ours[-1] == end
    assert len(ours) < 40


@pytest.mark.parametrize("family", ["llama-3", "mistral", "qwen3"])
def test_decodes_and_chunks_of_other_sequences_change_nothing(checkpoint, family):
    saved = checkpoint(family)
    packer = Packer(saved.load())
    texts = [prompt(n, seed=1000 * i) for i, n in enumerate((150, 97, 33, 120, 64))]
    a, b, c, d, e = (Sequence(tokens) for tokens in texts)
    got: dict[int, list[torch.Tensor]] = {id(s): [] for s in (a, b, c, d, e)}

    def step(decodes, *chunks):
        for sequence, logits in zip(
            [*decodes, *(s for s, _ in chunks)], packer.step(decodes, *chunks), strict=True
        ):
            got[id(sequence)].append(logits)

    step([], (a, 140), (b, 95))
    step([a, b], (c, 32), (d, 50))
    for _ in range(6):
        step([a, c] if c.computed < 33 else [a], (d, 10))
    step([b], (e, 64), (d, 10))
    for sequence, tokens in zip((a, b, c, d, e), texts, strict=True):
        theirs = saved.logits(tokens)[: sequence.computed]
        assert_close(torch.cat(got[id(sequence)]), theirs)


def test_prefix_filled_by_another_sequence_in_the_same_step(checkpoint):
    saved, tokens = checkpoint("llama-3"), prompt(48)
    packer = Packer(saved.load())
    first, second = Sequence(tokens[:40]), Sequence(tokens[:32] + tokens[40:])
    packer.pack([], (first, 40))  # gives `first` its pages, computes nothing
    second.pages, second.computed = first.pages[:2], 32
    ours = packer.step([], (second, 8), (first, 40))
    assert_close(ours[0], saved.logits(second.tokens)[32:])
    assert_close(ours[1], saved.logits(first.tokens))


def test_only_the_rows_asked_for_get_logits(checkpoint):
    decoder, tokens = checkpoint("llama-2").load(), prompt(50)
    packer = Packer(decoder)
    batch = packer.pack([], (Sequence(tokens), 50))
    with torch.inference_mode():
        all_rows = decoder.forward(batch, packer.kv)
        some = decoder.forward(
            dataclasses.replace(batch, logit_rows=torch.tensor([7, 49])), packer.kv
        )
        none = decoder.forward(
            dataclasses.replace(batch, logit_rows=torch.empty(0, dtype=torch.int64)), packer.kv
        )
    assert_close(some, all_rows[[7, 49]])
    assert none.shape == (0, 300)


@pytest.mark.parametrize("family", ["llama-3", "qwen3"])
def test_bf16_runs_close(checkpoint, family):
    saved, tokens = checkpoint(family), prompt()
    theirs = saved.logits(tokens)
    decoder = saved.load(torch.bfloat16)
    packer, sequence = Packer(decoder), Sequence(tokens)
    stepped = torch.cat(
        [packer.step([], (sequence, 150))[0], *(packer.step([sequence])[0] for _ in range(50))]
    )
    for ours in (Packer(decoder).prefill(tokens, 200), stepped):
        # bf16 keeps 8 bits: the error of a few layers stays near 1 % of the spread.
        assert (ours - theirs).std() < 0.05 * theirs.std()


def test_layers_of_different_shape(checkpoint, tmp_path):
    """Zero some neurons and heads in transformers, cut them out in ours: same logits."""
    saved, tokens = checkpoint("llama-2"), prompt()
    kept_neurons, kept_heads, head_dim = 40, 2, 16
    weights = {k: v.clone() for k, v in saved.reference.state_dict().items()}
    zeroed, cut = {k: v.clone() for k, v in weights.items()}, dict(weights)
    zeroed["model.layers.1.mlp.down_proj.weight"][:, kept_neurons:] = 0
    for name in ("gate_proj", "up_proj"):
        name = f"model.layers.1.mlp.{name}.weight"
        cut[name] = weights[name][:kept_neurons]
    name = "model.layers.1.mlp.down_proj.weight"
    cut[name] = weights[name][:, :kept_neurons].contiguous()
    columns = kept_heads * head_dim
    zeroed["model.layers.2.self_attn.o_proj.weight"][:, columns:] = 0
    for name in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.2.self_attn.{name}.weight"
        cut[name] = weights[name][:columns]
    name = "model.layers.2.self_attn.o_proj.weight"
    cut[name] = weights[name][:, :columns].contiguous()

    saved.reference.load_state_dict(zeroed)
    theirs = saved.logits(tokens)
    saved.reference.load_state_dict(weights)
    save_file(cut, tmp_path / "model.safetensors")
    config = ModelConfig.load(saved.directory)
    change = msgspec.structs.replace
    layers = (
        config.layers[0],
        change(config.layers[1], ffn_size=kept_neurons),
        change(config.layers[2], heads=kept_heads, kv_heads=kept_heads),
    )
    decoder = load_weights(change(config, layers=layers), tmp_path, torch.float32, "cpu")
    assert not torch.equal(theirs, saved.logits(tokens))
    assert_close(Packer(decoder).prefill(tokens, 64, 136), theirs)


class SharingCache(DynamicCache):
    """The last layer reads the K and V of the one before."""

    def update(self, key, value, layer_idx, *args, **kwargs):
        if layer_idx == 2:
            return self.layers[1].keys, self.layers[1].values
        return super().update(key, value, layer_idx, *args, **kwargs)


@pytest.mark.parametrize("family", ["llama-2", "qwen3"])
def test_layer_that_shares_k_and_v_with_an_earlier_one(checkpoint, tmp_path, family):
    saved, tokens = checkpoint(family), prompt()
    with torch.no_grad():
        theirs = saved.reference(
            torch.tensor([tokens]), past_key_values=SharingCache(), use_cache=True
        ).logits[0]
    own = {
        f"model.layers.2.self_attn.{name}"
        for name in ("k_proj.weight", "v_proj.weight", "k_norm.weight")
    }
    weights = {k: v for k, v in saved.reference.state_dict().items() if k not in own}
    save_file(weights, tmp_path / "model.safetensors")
    config = ModelConfig.load(saved.directory)
    last = msgspec.structs.replace(config.layers[2], shares_kv=1)
    config = msgspec.structs.replace(config, layers=(*config.layers[:2], last))
    decoder = load_weights(config, tmp_path, torch.float32, "cpu")
    packer = Packer(decoder)
    assert packer.kv.bytes_per_token == 2 * 2 * config.layers[0].kv_heads * (
        config.layers[0].head_dim * 4
    )
    assert_close(packer.prefill(tokens, 64, 136), theirs)


def test_table_that_lost_a_page_from_its_middle(checkpoint):
    """Tokens after the loss attend everything but the lost page; positions count on."""
    saved, tokens = checkpoint("llama-3"), prompt(140)
    packer, sequence = Packer(saved.load()), Sequence(tokens)
    kept = packer.step([], (sequence, 96))[0]
    del sequence.pages[2]
    sequence.dropped = PAGE_SIZE
    after = [packer.step([], (sequence, 40))[0], *(packer.step([sequence])[0] for _ in range(4))]

    hidden = torch.ones(140, 140, dtype=torch.bool).triu(1)
    hidden[96:, 2 * PAGE_SIZE : 3 * PAGE_SIZE] = True
    mask = torch.zeros(1, 1, 140, 140).masked_fill(hidden, torch.finfo(torch.float32).min)
    with torch.no_grad():
        theirs = saved.reference(torch.tensor([tokens]), attention_mask=mask).logits[0]
    assert_close(torch.cat([kept, *after]), theirs)
    assert (theirs[96:] - saved.logits(tokens)[96:]).abs().max() > 0.1  # the page mattered


def test_reading_pages_written_by_any_layer_is_not_order_dependent(checkpoint):
    """Two stores filled in different chunks hold the same K and V."""
    decoder, tokens = checkpoint("qwen2").load(), prompt(80)
    pools = []
    for chunks in ((80,), (16, 1, 63)):
        packer, sequence = Packer(decoder), Sequence(tokens)
        for rows in chunks:
            packer.step([], (sequence, rows))
        pages = torch.tensor(sequence.pages)
        pools.append([packer.kv.layer(i).gather(pages) for i in range(3)])
    for one, other in zip(*pools, strict=True):
        assert (one - other).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", ["llama-3", "mistral", "qwen3"])
def test_devices_other_than_a_cpu(checkpoint, family):
    """The meta device takes the paths a GPU takes, shapes without numbers."""
    config = ModelConfig.load(checkpoint(family).directory)
    packer = Packer(Decoder(config, torch.bfloat16, "meta"), device="meta")
    sequences = [Sequence(prompt(150)) for _ in range(3)]
    packer.step([], (sequences[0], 150))
    packer.step([], (sequences[1], 100), (sequences[2], 1))
    for sequence in sequences:
        sequence.tokens.append(9)
    logits = packer.step(sequences[:1], (sequences[1], 50), (sequences[2], 70))
    assert [tuple(rows.shape) for rows in logits] == [(1, 300), (50, 300), (70, 300)]
    assert {(rows.device.type, rows.dtype) for rows in logits} == {("meta", torch.float32)}


def test_checkpoint_files_are_what_was_saved(checkpoint):
    """Guards the tests above: the sharded family is sharded, the old spelling is old."""
    assert len(list(checkpoint("qwen3").directory.glob("model-*.safetensors"))) > 1
    old = (checkpoint("llama-3-old").directory / "config.json").read_text()
    assert "rope_scaling" in old
    assert "rope_parameters" not in old
    assert "lm_head.weight" not in load_file(checkpoint("llama-3").directory / "model.safetensors")
