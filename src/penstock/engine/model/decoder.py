"""The transformer: from a ragged batch of tokens to logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kernels import attention
from penstock.engine.kernels.linear import linear, pack
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kv import KVLayer, KVStore
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.config import LayerConfig, ModelConfig

Angles = tuple[Tensor, Tensor]  # cos and sin, each [T, 1, head_dim]


class Layer:
    """Weights of one layer, [out, in] as in the checkpoint, biases None where it has none.

    Projections of the same input are one matrix: q, k and v; gate and up. A
    layer that shares an earlier layer's K and V has q alone.
    """

    def __init__(
        self,
        shape: LayerConfig,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        def norm(size: int) -> RMSNorm:
            return RMSNorm(empty(size), config.norm_eps)

        hidden = config.hidden_size
        self.shape = shape
        own_kv = 2 * shape.kv_heads if shape.shares_kv is None else 0
        q, qkv = shape.heads * shape.head_dim, (shape.heads + own_kv) * shape.head_dim
        self.attention_norm = norm(hidden)
        self.qkv = empty(qkv, hidden)
        self.qkv_bias = empty(qkv) if shape.qkv_bias else None
        self.q_norm = norm(shape.head_dim) if shape.qk_norm else None
        self.k_norm = norm(shape.head_dim) if shape.qk_norm and own_kv else None
        self.output = empty(hidden, q)
        self.output_bias = empty(hidden) if shape.output_bias else None
        self.ffn_norm = norm(hidden)
        self.gate_up = empty(2 * shape.ffn_size, hidden)
        self.gate_up_bias = empty(2 * shape.ffn_size) if shape.ffn_bias else None
        self.down = empty(hidden, shape.ffn_size)
        self.down_bias = empty(hidden) if shape.ffn_bias else None


class Decoder:
    """A decoder-only transformer. Construction leaves the weights unset: see `loader`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        vocab, hidden = config.vocab_size, config.hidden_size
        self.config = config
        self.dtype = dtype
        self.embedding = empty(vocab, hidden)
        self.layers = [Layer(shape, config, dtype, device) for shape in config.layers]
        self.norm = RMSNorm(empty(hidden), config.norm_eps)
        self.head = self.embedding if config.tied_embeddings else empty(vocab, hidden)
        self._windows = {layer.window for layer in config.layers}
        self._slot_bytes = dtype.itemsize * max(
            2 * layer.kv_heads * layer.head_dim for layer in config.layers
        )
        self._frequencies = {
            size: torch.tensor(config.rope.frequencies(size), dtype=torch.float32, device=device)
            for size in {layer.head_dim for layer in config.layers}
        }

    def pack(self) -> None:
        """Bring the matrices into the layout this machine multiplies fastest.

        Call once, when the weights are set; from then on only `forward` reads them.
        """
        for layer in self.layers:
            layer.qkv, layer.output = pack(layer.qkv), pack(layer.output)
            layer.gate_up, layer.down = pack(layer.gate_up), pack(layer.down)
        self.head = pack(self.head)

    def kv_layers(self) -> list[KVLayer]:
        """What a `KVStore` must hold for this model."""
        return [
            KVLayer(layer.kv_heads, layer.head_dim, layer.shares_kv) for layer in self.config.layers
        ]

    def forward(self, batch: StepBatch, kv: KVStore) -> Tensor:
        """Take every row of `batch` through the model, writing its K and V into `kv`.

        Returns fp32 logits [L, vocab] of `batch.logit_rows`. The caller holds
        `torch.inference_mode()`.
        """
        x = F.embedding(batch.tokens, self.embedding)  # [T, hidden]
        angles = {size: self._angles(batch.positions, size) for size in self._frequencies}
        plan = attention.plan(
            batch,
            self._windows,
            page_size=kv.page_size,
            slot_bytes=self._slot_bytes,
            dtype=x.dtype,
        )
        for index, layer in enumerate(self.layers):
            h = layer.attention_norm(x)
            q, own_kv = self._qkv(layer, h, angles[layer.shape.head_dim])
            pages = kv.layer(index)
            if layer.shape.shares_kv is None:
                pages.write(batch.slots, own_kv)
            h = attention.attend(q, pages, plan, layer.shape.window)
            x.add_(linear(h, layer.output, layer.output_bias))

            h = layer.ffn_norm(x)
            gate, up = linear(h, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x.add_(linear(F.silu(gate).mul_(up), layer.down, layer.down_bias))
        x = self.norm(x.index_select(0, batch.logit_rows))
        return linear(x, self.head).float()

    def _qkv(self, layer: Layer, h: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """Queries [T, heads, head_dim], then K and V [T, 2 * kv_heads, head_dim]; q, k rotated.

        There is no K and V of a layer that shares an earlier one's: [T, 0, head_dim].
        """
        shape = layer.shape
        rows = linear(h, layer.qkv, layer.qkv_bias).view(len(h), -1, shape.head_dim)
        q, kv = rows[:, : shape.heads], rows[:, shape.heads :]
        rotated = shape.heads + kv.shape[1] // 2
        if layer.q_norm is not None:
            q.copy_(layer.q_norm(q))
        if layer.k_norm is not None:
            k = rows[:, shape.heads : rotated]
            k.copy_(layer.k_norm(k))
        _rotate(rows[:, :rotated], *angles)
        return q, kv

    def _angles(self, positions: Tensor, head_dim: int) -> Angles:
        turns = positions[:, None] * self._frequencies[head_dim]  # [T, head_dim / 2]
        cos, sin = turns.cos(), turns.sin()
        # The sign of `_rotate` stands in the sine: [-sin, sin].
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        return cos[:, None].to(self.dtype), sin[:, None].to(self.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary embedding in place: pairs are (i, i + head_dim/2), as in HF checkpoints."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    x.mul_(cos).addcmul_(swapped, sin)
