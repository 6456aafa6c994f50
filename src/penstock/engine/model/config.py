"""What a checkpoint's `config.json` says of the model, in one spelling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


# In config.json: the sizes of each layer where they differ, which no public format has a
# word for. transformers passes over it and refuses the weights for their shapes.
LAYERS = "penstock_layers"

# In the name of an architecture: K and V as in `ModelConfig.full_layers`. The layout is that
# of Snowflake's checkpoints: LlamaSwiftKVForCausalLM, model_type llama_swiftkv.
SWIFTKV = "SwiftKV"


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary embedding: base frequency and how it is stretched to longer contexts.

    `linear` divides every frequency by `factor` (Chen et al. 2023); `llama3`
    divides only the slow ones and blends between (Llama 3.1 release).
    """

    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # the last three: llama3 only
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def frequencies(self, head_dim: int) -> list[float]:
        """Radians per position of each of the `head_dim / 2` rotated pairs."""
        plain = [self.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        if self.kind == "llama3":
            return [self._llama3(f) for f in plain]
        return [f / self.factor for f in plain]

    def _llama3(self, frequency: float) -> float:
        turns = self.original_context * frequency / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        # 0 below `low` turns in the original context, 1 above `high`, linear between.
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return kept * frequency + (1 - kept) * frequency / self.factor


class LayerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of one decoder layer. Layers of a pruned model differ from each other."""

    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    window: int | None = None  # slots a row attends, its own included; None: all
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    shares_kv: int | None = None  # index of the earlier layer whose K and V this one reads
    deep: bool = False  # its K and V are not made of its own input: see `ModelConfig.full_layers`

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads={self.heads} must be a multiple of "
                f"num_key_value_heads={self.kv_heads}."
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary embedding.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"sliding_window={self.window} must be at least 1, or null.")

    @property
    def fused(self) -> bool:
        """Whether its queries, K and V are made of one input, by one matrix."""
        return self.shares_kv is None and not self.deep


class Quantization(msgspec.Struct, frozen=True):
    """Integers that stand for the weights of every layer; norms, embedding and head have none."""

    bits: Literal[4, 8]
    group: int | None  # inputs that share a scale; None: all of an output

    @property
    def form(self) -> Literal["int8", "int4"]:
        """As the engine calls it."""
        return "int4" if self.bits == 4 else "int8"


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder-only transformer, one `LayerConfig` per layer."""

    architecture: str
    vocab_size: int
    hidden_size: int
    max_positions: int
    norm_eps: float
    rope: RopeConfig
    layers: tuple[LayerConfig, ...]
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    checkpoint_dtype: str | None  # precision the weights were saved in, where the config says
    quantization: Quantization | None = None

    @property
    def full_layers(self) -> int:
        """Layers that every token goes through: all of them, but for a SwiftKV model.

        There the layers behind them are `deep`: the K and V of every token, prompt or
        not, are made of what comes out of the full layers, and so only tokens whose
        logits are wanted need go through the rest (SwiftKV, Qiao et al. 2024). K and V
        are therefore a function of the tokens up to theirs, as in any model.
        """
        return next((i for i, layer in enumerate(self.layers) if layer.deep), len(self.layers))

    @staticmethod
    def load(directory: Path) -> ModelConfig:
        """Read `config.json`, and the end-of-sequence ids of `generation_config.json`.

        Raises `FileNotFoundError` without a `config.json`, `ValueError` naming
        the field that this engine cannot honour.
        """
        path = directory / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{directory} holds no config.json: not a model directory.")
        generation = directory / "generation_config.json"
        return from_hf(
            msgspec.json.decode(path.read_bytes()),
            msgspec.json.decode(generation.read_bytes()) if generation.is_file() else {},
        )


def from_hf(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelConfig:
    """Translate a Hugging Face config (of transformers 4 or 5) into ours.

    `generation` is the content of `generation_config.json`: its `eos_token_id`,
    where it names any, replaces the config's, as in `transformers`.
    Raises `ValueError` naming the field that this engine cannot honour.
    """
    family = _family(config)
    _refuse_unsupported(config)
    eos = (generation or {}).get("eos_token_id")
    eos = config.get("eos_token_id") if eos is None else eos
    layers = _layers(config, family)
    return ModelConfig(
        architecture=family,
        vocab_size=_need(config, "vocab_size"),
        hidden_size=_need(config, "hidden_size"),
        max_positions=_need(config, "max_position_embeddings"),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope=_rope(config),
        layers=layers,
        tied_embeddings=config.get("tie_word_embeddings", False),
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        checkpoint_dtype=config.get("dtype") or config.get("torch_dtype"),
        quantization=_quantization(config, layers),
    )


def _family(config: Mapping[str, Any]) -> str:
    named = (config.get("architectures") or [None])[0]
    family = ARCHITECTURES.get(named.replace(SWIFTKV, "")) if named else config.get("model_type")
    if family not in ARCHITECTURES.values():
        raise ValueError(
            f"architectures={named or family!r} is not supported; "
            f"this engine runs {', '.join(ARCHITECTURES)}."
        )
    return str(family)


def _need(config: Mapping[str, Any], field: str) -> Any:
    value = config.get(field)
    if value is None:
        raise ValueError(f"config.json has no {field}, which this engine needs.")
    return value


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"hidden_act={act!r} is not supported; this engine computes 'silu'.")


def _quantization(
    config: Mapping[str, Any], layers: tuple[LayerConfig, ...]
) -> Quantization | None:
    """Read "pack-quantized" of compressed-tensors, the symmetric integers that our kernels take."""
    if not (given := config.get("quantization_config")):
        return None
    remedy = "give a checkpoint in fp32, fp16 or bf16, or one made by penstock compress"

    def need(field: str, value: Any, *wanted: Any) -> Any:
        if value not in wanted:
            raise ValueError(f"quantization_config.{field}={value!r} is not supported; {remedy}.")
        return value

    need("quant_method", given.get("quant_method"), "compressed-tensors")
    need("format", given.get("format"), "pack-quantized")
    groups = list((given.get("config_groups") or {}).values())
    need("config_groups: their number", len(groups), 1)
    need("targets", groups[0].get("targets"), ["Linear"])
    need("ignore", given.get("ignore"), ["lm_head"])
    need("input_activations", groups[0].get("input_activations"), None)
    weights = groups[0].get("weights") or {}
    need("weights.type", weights.get("type"), "int")
    need("weights.symmetric", weights.get("symmetric"), True)
    need("weights.actorder", weights.get("actorder"), None, "static", "weight")
    bits = need("weights.num_bits", weights.get("num_bits"), 4, 8)
    strategies = ("group", "channel") if bits == 4 else ("channel",)
    if need("weights.strategy", weights.get("strategy"), *strategies) == "channel":
        return Quantization(bits, None)
    group = weights.get("group_size")
    heads = {layer.heads * layer.head_dim for layer in layers}
    for inputs in {config["hidden_size"], *heads, *(layer.ffn_size for layer in layers)}:
        if not isinstance(group, int) or group < 1 or inputs % group:
            raise ValueError(
                f"quantization_config.weights.group_size={group} must divide {inputs}, the inputs "
                "of a matrix."
            )
    return Quantization(bits, group)


def _rope(config: Mapping[str, Any]) -> RopeConfig:
    # transformers 5 keeps everything in `rope_parameters`; before, the base stood
    # apart as `rope_theta` and the type was spelled `type`, later `rope_type`.
    field = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    given = config.get(field) or {}
    theta = given.get("rope_theta", config.get("rope_theta", 10_000.0))
    if by_layer_type := [name for name, value in given.items() if isinstance(value, Mapping)]:
        raise ValueError(f"{field}.{by_layer_type[0]}: one rope for all layers is supported.")
    if (rotated := given.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(f"{field}.partial_rotary_factor={rotated} is not supported, only 1.0.")

    def need(name: str) -> Any:
        if name not in given:
            raise ValueError(f"{field} of type {kind!r} lacks {name}.")
        return given[name]

    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, kind="linear", factor=need("factor"))
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            kind="llama3",
            factor=need("factor"),
            low_freq_factor=need("low_freq_factor"),
            high_freq_factor=need("high_freq_factor"),
            original_context=need("original_max_position_embeddings"),
        )
    raise ValueError(f"{field}.rope_type={kind!r} is not supported: default, linear or llama3.")


def _layers(config: Mapping[str, Any], family: str) -> tuple[LayerConfig, ...]:
    heads = _need(config, "num_attention_heads")
    attention_bias = config.get("attention_bias", False) and family in ("llama", "qwen3")
    layer = LayerConfig(
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or _need(config, "hidden_size") // heads,
        ffn_size=_need(config, "intermediate_size"),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=attention_bias,
        ffn_bias=family == "llama" and config.get("mlp_bias", False),
        qk_norm=family == "qwen3",
    )
    windows = _windows(config, family, _need(config, "num_hidden_layers"))
    shapes = _own_shapes(config, len(windows))
    sources = _kv_sources(config, len(windows))
    return tuple(
        msgspec.structs.replace(layer, window=window, **own, **source)
        for window, own, source in zip(windows, shapes, sources, strict=True)
    )


def _kv_sources(config: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Where each layer has its K and V from: itself, unless it is a SwiftKV model."""
    if SWIFTKV not in (config.get("architectures") or [""])[0]:
        return [{}] * count
    full, group = _need(config, "num_key_value_layers"), config.get("key_value_group_size", 1)
    if not 0 < full < count:
        raise ValueError(
            f"num_key_value_layers={full} must lie between 1 and {count - 1}: so many of "
            f"num_hidden_layers={count} make K and V of their own input."
        )
    if group < 1:
        raise ValueError(f"key_value_group_size={group} must be at least 1.")
    firsts = [full + (index - full) // group * group for index in range(full, count)]
    return [{}] * full + [
        {"deep": True, "shares_kv": None if first == index else first}
        for index, first in enumerate(firsts, full)
    ]


def _own_shapes(config: Mapping[str, Any], count: int) -> list[dict[str, int]]:
    """What each layer of a model pruned unevenly has of its own."""
    given = config.get(LAYERS)
    if given is None:
        return [{}] * count
    named = {
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "intermediate_size": "ffn_size",
    }
    if len(given) != count or any(set(own) != set(named) for own in given):
        raise ValueError(
            f"{LAYERS} must give {', '.join(named)} for each of num_hidden_layers={count} layers."
        )
    return [{named[field]: value for field, value in own.items()} for own in given]


def _windows(config: Mapping[str, Any], family: str, count: int) -> list[int | None]:
    window = config.get("sliding_window")
    if family == "llama" or window is None:
        return [None] * count
    if family == "mistral":
        return [window] * count
    if not config.get("use_sliding_window", False):
        return [None] * count
    types = config.get("layer_types")
    if types is None:
        full = config.get("max_window_layers", count)  # the first so many see everything
        return [None if i < full else window for i in range(count)]
    known = {"full_attention": None, "sliding_attention": window}
    if len(types) != count or (set(types) - known.keys()):
        raise ValueError(
            f"layer_types={types} must give one of {', '.join(known)} for each of {count} layers."
        )
    return [known[kind] for kind in types]
