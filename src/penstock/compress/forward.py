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
`attention` (of q, k and v), `output`, `ffn` (of gate and up), `down`."""


def _deaf(site: str, inputs: Tensor) -> None:
    """Hears nothing."""


def forward(config: ModelConfig, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits [rows, length, vocab] of token ids [rows, length], every row from position 0."""
    x = embed(weights, tokens)
    for index in range(len(config.layers)):
        x = layer(config, weights, index, x)
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
    config: ModelConfig, weights: Mapping[str, Tensor], index: int, x: Tensor, tap: Tap = _deaf
) -> Tensor:
    """Take `x` [rows, length, hidden] through one layer. Raises `ValueError` for shared K and V."""
    shape, prefix = config.layers[index], f"model.layers.{index}."
    if shape.shares_kv is not None:
        raise ValueError(f"layer {index} shares K and V with another: it cannot be compressed yet.")

    def linear(name: str, inputs: Tensor) -> Tensor:
        return F.linear(
            inputs, weights[f"{prefix}{name}.weight"], weights.get(f"{prefix}{name}.bias")
        )

    h = _norm(config, weights[f"{prefix}input_layernorm.weight"], x)
    tap("attention", h)
    q, k, v = (
        linear(f"self_attn.{name}_proj", h).view(*x.shape[:2], -1, shape.head_dim).transpose(1, 2)
        for name in "qkv"
    )  # [rows, heads, length, head_dim]
    if shape.qk_norm:
        q = _norm(config, weights[f"{prefix}self_attn.q_norm.weight"], q)
        k = _norm(config, weights[f"{prefix}self_attn.k_norm.weight"], k)
    h = _attend(*_rotated(config, shape, q, k), v, shape)
    tap("output", h)
    x = x + linear("self_attn.o_proj", h)
    h = _norm(config, weights[f"{prefix}post_attention_layernorm.weight"], x)
    tap("ffn", h)
    h = F.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h)
    tap("down", h)
    return x + linear("mlp.down_proj", h)


def _norm(config: ModelConfig, weight: Tensor, x: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, config.norm_eps)


def _rotated(
    config: ModelConfig, shape: LayerConfig, q: Tensor, k: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotary embedding: pairs are (i, i + head_dim / 2), as in HF checkpoints."""
    frequencies = torch.tensor(config.rope.frequencies(shape.head_dim))
    turns = torch.arange(q.shape[2])[:, None] * frequencies  # [length, head_dim / 2]
    cos, sin = (f(torch.cat((turns, turns), -1)) for f in (torch.cos, torch.sin))

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return turned(q), turned(k)


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
