"""HF configs, in every spelling, become one `ModelConfig`, or an error that names the field."""

from __future__ import annotations

import math

import msgspec
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from penstock.engine.model.config import ModelConfig, from_hf

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}
QWEN = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 128}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def windows(config: dict) -> list[int | None]:
    return [layer.window for layer in from_hf(config).layers]


@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_old_and_new_spelling_of_rope_scaling_agree(kind):
    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {kind: "llama3", **LLAMA3}}
    new = {**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}
    assert from_hf(old) == from_hf(new)
    assert from_hf(new).rope.kind == "llama3"


@pytest.mark.parametrize(
    "rope", [{"rope_type": "llama3", **LLAMA3}, {"rope_type": "linear", "factor": 3.0}]
)
def test_frequencies_are_those_of_transformers(rope):
    rope = {"rope_theta": 5e5, **rope}
    theirs, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](
        LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=dict(rope)), "cpu"
    )
    ours = from_hf({**LLAMA, "rope_parameters": rope}).rope.frequencies(16)
    assert ours == pytest.approx(theirs.tolist(), rel=1e-6)


def test_plain_rope_without_any_field():
    assert from_hf(LLAMA).rope.frequencies(4) == pytest.approx([1.0, 1 / math.sqrt(10_000)])


def test_windows_of_every_family():
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"]}
    assert windows({**mistral, "sliding_window": 128}) == [128] * 4
    assert windows({**mistral, "sliding_window": None}) == [None] * 4
    assert windows(QWEN) == [None] * 4  # use_sliding_window is off unless given
    on = {**QWEN, "use_sliding_window": True}
    assert windows({**on, "max_window_layers": 3}) == [None, None, None, 128]
    types = ["sliding_attention", "full_attention"] * 2
    assert windows({**on, "layer_types": types}) == [128, None, 128, None]


def test_biases_norms_and_head_size_of_every_family():
    layer = from_hf(LLAMA).layers[0]
    assert (layer.head_dim, layer.qkv_bias, layer.output_bias, layer.qk_norm) == (16, 0, 0, 0)
    layer = from_hf({**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 24}).layers[0]
    assert (layer.head_dim, layer.qkv_bias, layer.output_bias, layer.ffn_bias) == (24, 1, 1, 1)
    layer = from_hf(QWEN).layers[0]
    assert (layer.qkv_bias, layer.output_bias, layer.ffn_bias) == (1, 0, 0)
    layer = from_hf({**LLAMA, "architectures": ["Qwen3ForCausalLM"]}).layers[0]
    assert (layer.qk_norm, layer.qkv_bias) == (1, 0)


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        (2, None, (2,)),
        ([2, 7], None, (2, 7)),
        (2, [7, 9], (7, 9)),
        ([2, 7], 9, (9,)),
        (None, None, ()),
    ],
)
def test_end_of_sequence_ids(tmp_path, config, generation, ids):
    (tmp_path / "config.json").write_bytes(msgspec.json.encode({**LLAMA, "eos_token_id": config}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_bytes(
            msgspec.json.encode({"eos_token_id": generation})
        )
    assert ModelConfig.load(tmp_path).eos_token_ids == ids


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*LlamaForCausalLM.*Qwen3"),
        ({"architectures": None, "model_type": "gemma"}, "gemma.*MistralForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling.rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.*lacks factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"vocab_size": None}, "no vocab_size"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"head_dim": 15}, "head_dim=15"),
    ],
)
def test_what_cannot_be_honoured_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        from_hf({**LLAMA, **change})


def test_unknown_layer_types_are_named():
    with pytest.raises(ValueError, match="layer_types"):
        from_hf({**QWEN, "use_sliding_window": True, "layer_types": ["linear_attention"] * 4})


def test_directory_without_a_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        ModelConfig.load(tmp_path)
