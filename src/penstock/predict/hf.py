"""The layers that a Hugging Face `config.json` describes, for the families of models in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

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
_KINDS = ("full_attention", "linear_attention", *_WINDOWS)
# A size; publishers write 0 or null for none.
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] | None
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]


class _Weights(msgspec.Struct):
    type: str
    num_bits: int


class _Group(msgspec.Struct):
    weights: _Weights


class Quantization(msgspec.Struct):
    """What a config says of the format its weights are in."""

    quant_method: str = ""
    bits: int | None = None
    quant_algo: str | None = None
    config_groups: dict[str, _Group] = {}

    @property
    def format(self) -> str:
        """The format's name here. Raises `ValueError` for one that is not known."""
        method, bits = self.quant_method, self.bits
        if method == "modelopt":
            method = (self.quant_algo or "").lower()
        for group in self.config_groups.values():
            method, bits = f"{group.weights.type}-quantized", group.weights.num_bits
        found = _FORMATS.get((method, bits)) or _FORMATS.get((method, None))
        if found is None:
            raise ValueError(
                f"quantization_config: method {method!r} with {bits} bits is not known here; "
                "take the config.json of the original weights, and name the format with --weights."
            )
        return found


class Own(msgspec.Struct, forbid_unknown_fields=True):
    """What a layer has of its own in a model that was pruned unevenly (see docs/compress.md)."""

    num_attention_heads: _Count
    num_key_value_heads: _Count
    intermediate_size: _Count


class Config(msgspec.Struct, kw_only=True):
    """The fields of a `config.json` that change a size, in their own spelling."""

    model_type: str
    hidden_size: _Size = None
    vocab_size: _Size = None
    max_position_embeddings: _Size = None
    tie_word_embeddings: bool | None = None
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    num_attention_heads: _Size = None
    num_key_value_heads: _Size = None
    head_dim: _Size = None
    sliding_window: _Size = None
    attention_chunk_size: _Size = None
    attn_output_gate: bool | None = None
    layer_types: list[str] | None = None
    full_attention_interval: _Size = None
    kv_lora_rank: _Size = None
    q_lora_rank: _Size = None
    qk_rope_head_dim: _Size = None
    qk_nope_head_dim: _Size = None
    v_head_dim: _Size = None
    index_topk: _Size = None
    index_head_dim: _Size = None
    index_n_heads: _Size = None
    linear_num_key_heads: _Size = None
    linear_num_value_heads: _Size = None
    linear_key_head_dim: _Size = None
    linear_value_head_dim: _Size = None
    intermediate_size: _Size = None
    intermediate_size_mlp: _Size = None
    n_routed_experts: _Size = None
    num_local_experts: _Size = None
    num_experts: _Size = None
    num_experts_per_tok: _Size = None
    moe_intermediate_size: _Size = None
    n_shared_experts: _Size = None
    shared_expert_intermediate_size: _Size = None
    first_k_dense_replace: _Size = None
    mlp_only_layers: list[int] | None = None
    interleave_moe_layer_step: _Size = None
    quantization_config: Quantization | None = None
    penstock_layers: list[Own] | None = None

    def need(self, field: str) -> int:
        """A size that there must be. Raises `ValueError` naming the field where there is none."""
        value = getattr(self, field)
        if not value:
            raise ValueError(
                f"{field}={value!r} must be a whole number of at least 1: "
                "take it from the publisher's config.json."
            )
        return int(value)


def parse(config: Mapping[str, Any]) -> Config:
    """The part that decodes text: the config itself, or its `text_config` where it also sees.

    Raises `ValueError` naming the field for a family that is not known here,
    or a value of another kind than it should be.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        whole = ("quantization_config", "tie_word_embeddings")  # said of the model, not of a part
        config = {field: config[field] for field in whole if field in config} | dict(inner)
    family = config.get("model_type")
    if str(family).endswith("_swiftkv"):
        raise ValueError(
            f"model_type={family!r}: its prompts stop behind {config.get('num_key_value_layers')} "
            "layers (SwiftKV), which is not reckoned with here. Take the model that it was made "
            "from as a bound: its prompts take more operations, its decoding reads no fewer bytes."
        )
    if family not in FAMILIES:
        raise ValueError(
            f"model_type={family!r} is no family known here; known are "
            f"{', '.join(FAMILIES)}. If its layers are built like one of these, "
            "say so in a copy of its config.json."
        )
    try:
        return msgspec.convert(config, Config)
    except msgspec.ValidationError as error:
        raise ValueError(f"{str(error).replace('`$.', '`')}.") from None


def layers(config: Config) -> tuple[Layers, ...]:
    """The layers of a decoder, those alike counted together.

    Raises `ValueError` naming the field for a size that is missing or cannot be.
    """
    depth, kinds = config.num_hidden_layers, config.layer_types
    if kinds is not None and len(kinds) != depth:
        raise ValueError(f"layer_types names {len(kinds)} layers of num_hidden_layers={depth}.")
    alike = Counter((_attention(one, i), _ffn(one, i)) for i, one in enumerate(_each(config)))
    return tuple(Layers(count, attention, ffn) for (attention, ffn), count in alike.items())


def _each(config: Config) -> list[Config]:
    """What the config says of each layer."""
    depth, own = config.num_hidden_layers, config.penstock_layers
    if own is None:
        return [config] * depth
    if len(own) != depth:
        raise ValueError(f"penstock_layers names {len(own)} layers of num_hidden_layers={depth}.")
    config.need("head_dim")  # heads are fewer, not smaller: their number does not tell it
    return [msgspec.structs.replace(config, **msgspec.structs.asdict(one)) for one in own]


def _attention(config: Config, index: int) -> Gqa | Mla | Linear:
    heads = config.need("num_attention_heads")
    if config.kv_lora_rank:
        return Mla(
            heads=heads,
            kv_rank=config.kv_lora_rank,
            rope_dim=config.need("qk_rope_head_dim"),
            nope_dim=config.need("qk_nope_head_dim"),
            value_dim=config.need("v_head_dim"),
            q_rank=config.q_lora_rank or None,
            top=config.index_topk or None,
            index_dim=config.index_head_dim or 0,
            index_heads=config.index_n_heads or 0,
        )
    kind = _kind(config, index)
    if kind == "linear_attention":
        return Linear(
            key_heads=config.need("linear_num_key_heads"),
            value_heads=config.need("linear_num_value_heads"),
            key_dim=config.need("linear_key_head_dim"),
            value_dim=config.need("linear_value_head_dim"),
        )
    kv_heads = config.num_key_value_heads or heads
    if heads % kv_heads:
        raise ValueError(
            f"num_attention_heads={heads} must be a multiple of num_key_value_heads={kv_heads}."
        )
    return Gqa(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.head_dim or config.need("hidden_size") // heads,
        window=config.need(_WINDOWS[kind]) if kind in _WINDOWS else None,
        gated=bool(config.attn_output_gate),
    )


def _kind(config: Config, index: int) -> str:
    if config.layer_types is not None:
        kind = config.layer_types[index]
        if kind not in _KINDS:
            raise ValueError(f"layer_types: {kind!r} is none of {', '.join(_KINDS)}.")
        return kind
    if every := config.full_attention_interval:
        return "full_attention" if (index + 1) % every == 0 else "linear_attention"
    if config.model_type == "llama4_text":
        return "full_attention" if (index + 1) % 4 == 0 else "chunked_attention"
    # Mistral's window holds in every layer, gpt-oss's in every other; Qwen's config
    # names one that its models do not use.
    windowed = config.model_type in ("mistral", "mixtral")
    windowed |= config.model_type == "gpt_oss" and index % 2 == 0
    return "sliding_attention" if windowed and config.sliding_window else "full_attention"


def _ffn(config: Config, index: int) -> Dense | Moe:
    experts = config.n_routed_experts or config.num_local_experts or config.num_experts
    dense_first = config.first_k_dense_replace or 0
    if not experts or index < dense_first or index in (config.mlp_only_layers or ()):
        return Dense(config.need("intermediate_size"))
    llama4 = config.model_type == "llama4_text"
    if llama4 and (index + 1) % (config.interleave_moe_layer_step or 1):
        return Dense(config.need("intermediate_size_mlp"))
    active = config.need("num_experts_per_tok")
    if active > experts:
        raise ValueError(f"num_experts_per_tok={active} is more than the {experts} experts.")
    # Where experts have no width of their own, all feed-forwards are experts.
    width = config.moe_intermediate_size or config.need("intermediate_size")
    shared = 1 if llama4 else config.n_shared_experts or 0
    return Moe(experts, active, width, config.shared_expert_intermediate_size or shared * width)
