"""The layers that a Hugging Face `config.json` describes, for the families of models in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from penstock.predict.layers import Dense, Gqa, Layers, Linear, Mla, Moe

# Families whose fields mean what is read here. Another may use the same names otherwise.
FAMILIES = (
    *("llama", "llama4_text", "mistral", "mixtral", "gpt_oss", "minimax_m2"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text"),
    *("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe", "glm_moe_dsa"),
)
# Method and bits (None: any) of a quantization_config, and the format that is.
_FORMATS = {
    ("fp8", None): "fp8",
    ("fbgemm_fp8", None): "fp8",
    ("float-quantized", 8): "fp8",
    ("int-quantized", 8): "int8",
    ("int-quantized", 4): "int4",
    ("float-quantized", 4): "fp4",
    ("nvfp4", None): "fp4",
    ("mxfp4", None): "mxfp4",
    ("awq", None): "int4",
    ("gptq", 4): "int4",
    ("gptq", 8): "int8",
}
# The field that tells how far a token sees. Llama 4 cuts the text in chunks: a token sees its
# own chunk, so as far as that at most.
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


def language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that decodes text: itself, or the `text_config` of a model that also sees."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def layers(config: Mapping[str, Any]) -> tuple[Layers, ...]:
    """The layers of a decoder, those alike counted together.

    Raises `ValueError` naming the field for a family that is not known here,
    or a size that is missing or cannot be.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"model_type={family!r} is no family known here; known are "
            f"{', '.join(FAMILIES)}. If its layers are built like one of these, "
            "say so in a copy of its config.json."
        )
    depth = size(config, "num_hidden_layers")
    alike = Counter((_attention(config, i), _ffn(config, i)) for i in range(depth))
    return tuple(Layers(count, attention, ffn) for (attention, ffn), count in alike.items())


def weight_format(config: Mapping[str, Any]) -> str:
    """The format that the weights are published in, as `quantization_config` tells it.

    Raises `ValueError` naming a method that is not known here.
    """
    said = config.get("quantization_config")
    if not said:
        return "bf16"
    method, bits = str(said.get("quant_method")), said.get("bits")
    if method == "modelopt":
        method = str(said.get("quant_algo")).lower()
    elif method == "compressed-tensors":
        weights = next(iter(said["config_groups"].values()))["weights"]
        method, bits = f"{weights['type']}-quantized", weights["num_bits"]
    found = _FORMATS.get((method, bits)) or _FORMATS.get((method, None))
    if found is None:
        raise ValueError(
            f"quantization_config: method {method!r} with {bits} bits is not known here; "
            "take the config.json of the original weights, and name the format with --weights."
        )
    return found


def size(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    """A size from the config. Raises `ValueError` naming the field where it is none."""
    value = config.get(field)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{field}={value!r} must be a whole number of at least 1: "
            "take it from the publisher's config.json."
        )
    return value


def _attention(config: Mapping[str, Any], index: int) -> Gqa | Mla | Linear:
    heads = size(config, "num_attention_heads")
    if config.get("kv_lora_rank"):
        return Mla(
            heads=heads,
            kv_rank=size(config, "kv_lora_rank"),
            rope_dim=size(config, "qk_rope_head_dim"),
            nope_dim=size(config, "qk_nope_head_dim"),
            value_dim=size(config, "v_head_dim"),
            q_rank=config.get("q_lora_rank"),
            top=config.get("index_topk"),
            index_dim=config.get("index_head_dim") or 0,
            index_heads=config.get("index_n_heads") or 0,
        )
    kind = _kind(config, index)
    if kind == "linear_attention":
        return Linear(
            key_heads=size(config, "linear_num_key_heads"),
            value_heads=size(config, "linear_num_value_heads"),
            key_dim=size(config, "linear_key_head_dim"),
            value_dim=size(config, "linear_value_head_dim"),
        )
    kv_heads = size(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(
            f"num_attention_heads={heads} must be a multiple of num_key_value_heads={kv_heads}."
        )
    return Gqa(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size(config, "head_dim", size(config, "hidden_size") // heads),
        window=size(config, _WINDOWS[kind]) if kind in _WINDOWS else None,
        gated=bool(config.get("attn_output_gate")),
    )


def _kind(config: Mapping[str, Any], index: int) -> str:
    kinds = config.get("layer_types")
    if kinds is not None:
        return str(kinds[index])
    if every := config.get("full_attention_interval"):
        return "full_attention" if (index + 1) % every == 0 else "linear_attention"
    family = config["model_type"]
    if family == "llama4_text":
        return "full_attention" if (index + 1) % 4 == 0 else "chunked_attention"
    # Mistral's window holds in every layer, gpt-oss's in every other; Qwen's config
    # names one that its models do not use.
    windowed = (family == "gpt_oss" and index % 2 == 0) or family in ("mistral", "mixtral")
    return "sliding_attention" if windowed and config.get("sliding_window") else "full_attention"


def _ffn(config: Mapping[str, Any], index: int) -> Dense | Moe:
    experts = next((config[field] for field in _EXPERTS if config.get(field)), None)
    dense_first = config.get("first_k_dense_replace") or 0
    if experts is None or index < dense_first or index in (config.get("mlp_only_layers") or ()):
        return Dense(size(config, "intermediate_size"))
    llama4 = config["model_type"] == "llama4_text"
    if llama4 and (index + 1) % size(config, "interleave_moe_layer_step", 1):
        return Dense(size(config, "intermediate_size_mlp"))
    # Where experts have no width of their own, all feed-forwards are experts.
    width = size(config, "moe_intermediate_size", config.get("intermediate_size"))
    shared = config.get("shared_expert_intermediate_size")
    return Moe(
        experts=experts,
        active=size(config, "num_experts_per_tok"),
        width=width,
        shared=shared or (1 if llama4 else config.get("n_shared_experts") or 0) * width,
    )
