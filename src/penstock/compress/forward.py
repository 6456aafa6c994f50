"""The model as a plain function of its named tensors: slow, whole rows at a time, differentiable.

The engine's decoder is made to serve; this one is made to be looked into. It
takes tensors by their names in a checkpoint, so whatever changes those (a pruned
layer, a rounded matrix, a gradient step) needs no model to be rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.model.config import LayerConfig, ModelConfig

Tap = Callable[[str, Tensor], None]
"""Hears the name of each site of a layer and its inputs [rows, length, inputs]:
`attention` (of q, k and v), `output`, `ffn` (of gate and up), `down`; in a deep layer
`attention` is of q alone, and `shared` of k and v."""


def _deaf(site: str, inputs: Tensor) -> None:
    """Hears nothing."""


def forward(config: ModelConfig, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits [rows, length, vocab] of token ids [rows, length], every row from position 0.

    Every token goes through every layer, also in a SwiftKV model: it is K and V that
    are all made of what comes into its first deep layer.
    """
    x = source = embed(weights, tokens)
    for index in range(len(config.layers)):
        if index == config.full_layers:
            source = x
        x = layer(config, weights, index, x, source=source)
    return logits(config, weights, x)


def loss(config: ModelConfig, weights: Mapping[str, Tensor], rows: Tensor, batch: int = 4) -> float:
    """Mean loss in nats of every next token of `rows` [n, length + 1], without gradients."""
    total = 0.0
    with torch.no_grad():
        for part in torch.split(rows, batch):
            said = forward(config, weights, part[:, :-1]).flatten(0, 1)
            total += float(F.cross_entropy(said, part[:, 1:].flatten(), reduction="sum"))
    return total / rows[:, 1:].numel()


def embed(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """What goes into the first layer: [rows, length, hidden]."""
    return F.embedding(tokens, weights["model.embed_tokens.weight"])


def logits(config: ModelConfig, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What comes out after the last: [rows, length, vocab]."""
    table = "model.embed_tokens" if config.tied_embeddings else "lm_head"
    x = _norm(config, weights["model.norm.weight"], x)
    return F.linear(x, weights[f"{table}.weight"])


def layer(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    index: int,
    x: Tensor,
    tap: Tap = _deaf,
    *,
    source: Tensor | None = None,
) -> Tensor:
    """Take `x` [rows, length, hidden] through one layer.

    A deep layer makes its K and V of `source`, what came out of the full layers; its
    taps hear that as `shared`. Raises `ValueError` for one without it.
    """
    shape, prefix = config.layers[index], f"model.layers.{index}."
    h = _norm(config, weights[f"{prefix}input_layernorm.weight"], x)
    tap("attention", h)
    q = _queries(config, weights, index, h)
    if shape.deep:
        if source is None:
            raise ValueError(
                f"layer {index} has its K and V from another layer's input: what looks at single "
                "layers comes before --swiftkv."
            )
        h = _norm(config, weights["model.norm_swiftkv.weight"], source)
        tap("shared", h)
    k, v = _keys_values(config, weights, index if shape.shares_kv is None else shape.shares_kv, h)
    h = _attend(q, k, v, shape)
    tap("output", h)
    x = x + _linear(weights, f"{prefix}self_attn.o_proj", h)
    h = _norm(config, weights[f"{prefix}post_attention_layernorm.weight"], x)
    tap("ffn", h)
    gate = F.silu(_linear(weights, f"{prefix}mlp.gate_proj", h))
    h = gate * _linear(weights, f"{prefix}mlp.up_proj", h)
    tap("down", h)
    return x + _linear(weights, f"{prefix}mlp.down_proj", h)


def keys_values(
    config: ModelConfig, weights: Mapping[str, Tensor], index: int, x: Tensor
) -> tuple[Tensor, Tensor]:
    """K and V that a layer makes of `x`: [rows, kv_heads, length, head_dim] each."""
    norm = weights[f"model.layers.{index}.input_layernorm.weight"]
    return _keys_values(config, weights, index, _norm(config, norm, x))


def _queries(config: ModelConfig, weights: Mapping[str, Tensor], index: int, h: Tensor) -> Tensor:
    """Rotated: [rows, heads, length, head_dim]."""
    shape, prefix = config.layers[index], f"model.layers.{index}.self_attn."
    q = _heads(shape, _linear(weights, f"{prefix}q_proj{_kind(shape)}", h))
    if shape.qk_norm:
        q = _norm(config, weights[f"{prefix}q_norm.weight"], q)
    return _rotated(config, shape, q)


def _keys_values(
    config: ModelConfig, weights: Mapping[str, Tensor], index: int, h: Tensor
) -> tuple[Tensor, Tensor]:
    """K, rotated, and V: [rows, kv_heads, length, head_dim] each."""
    shape, prefix = config.layers[index], f"model.layers.{index}.self_attn."
    k, v = (_heads(shape, _linear(weights, f"{prefix}{n}_proj{_kind(shape)}", h)) for n in "kv")
    if shape.qk_norm:
        k = _norm(config, weights[f"{prefix}k_norm.weight"], k)
    return _rotated(config, shape, k), v


def _kind(shape: LayerConfig) -> str:
    return "_swiftkv" if shape.deep else ""


def _linear(weights: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    return F.linear(inputs, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _heads(shape: LayerConfig, x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], -1, shape.head_dim).transpose(1, 2)


def _norm(config: ModelConfig, weight: Tensor, x: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, config.norm_eps)


def _rotated(config: ModelConfig, shape: LayerConfig, x: Tensor) -> Tensor:
    """Rotary embedding: pairs are (i, i + head_dim / 2), as in HF checkpoints."""
    frequencies = torch.tensor(config.rope.frequencies(shape.head_dim))
    turns = torch.arange(x.shape[2])[:, None] * frequencies  # [length, head_dim / 2]
    cos, sin = (f(torch.cat((turns, turns), -1)) for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor, shape: LayerConfig) -> Tensor:
    """Causal attention, within a window where the layer has one: [rows, length, heads * size]."""
    length, mask = q.shape[2], None
    if shape.window is not None and shape.window < length:
        back = torch.arange(length)[:, None] - torch.arange(length)
        mask = (back >= 0) & (back < shape.window)
    q, k = q.to(v.dtype), k.to(v.dtype)  # rotation widens what autocast has narrowed
    out = F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=mask is None, enable_gqa=shape.heads != shape.kv_heads
    )
    return out.transpose(1, 2).flatten(2)
