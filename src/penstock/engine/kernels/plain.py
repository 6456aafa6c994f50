"""The kernels in PyTorch's own operations: any device, and the reference for all others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from penstock.engine.kernels import attention
from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.quantized import Int4Pages, Int8Pages, QuantizedLinear
from penstock.engine.kv import KVPages, PlainPages, Storage
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.layer import Layer
from penstock.engine.options import KV
from penstock.engine.sampling import Draw, draw_plainly
from penstock.engine.scores import Rate, rate_plainly

Angles = tuple[Tensor, Tensor]  # cos and sin, each [T, 1, head_dim]
STORAGES: dict[KV, Storage] = {"plain": PlainPages, "int8": Int8Pages, "int4": Int4Pages}


class PlainStep:
    """What the layers of one step share: which pages, which masks, the rotary angles."""

    def __init__(
        self,
        batch: StepBatch,
        config: ModelConfig,
        page_size: int,
        frequencies: dict[int, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self._batch = batch
        self._angles = {
            size: _angles(batch.positions, each, dtype) for size, each in frequencies.items()
        }
        self._plan = attention.plan(
            batch,
            {layer.window for layer in config.layers},
            page_size=page_size,
            slot_bytes=dtype.itemsize
            * max(2 * layer.kv_heads * layer.head_dim for layer in config.layers),
            dtype=dtype,
        )

    def attend(self, layer: Layer, y: Tensor, pages: KVPages) -> Tensor:
        """As `Step.attend`."""
        q, own_kv = self._qkv(layer, y, layer.shape.heads)
        if layer.shape.fused:
            pages.write(self._batch.slots, own_kv)
        if not layer.shape.deep:
            attention.watch(q, pages, self._batch)
        return attention.attend(q, pages, self._plan, layer.shape.window)

    def store(self, layer: Layer, kv: Tensor, pages: KVPages) -> None:
        """As `Step.store`."""
        pages.write(self._batch.slots, self._qkv(layer, kv, heads=0)[1])

    def _qkv(self, layer: Layer, y: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Queries [T, heads, head_dim], then K and V [T, 2 * kv_heads, head_dim]; q, k rotated.

        `y` may have either alone: the other is then [T, 0, head_dim].
        """
        shape = layer.shape
        rows = y.view(len(y), y.shape[1] // shape.head_dim, shape.head_dim)
        q, kv = rows[:, :heads], rows[:, heads:]
        rotated = heads + kv.shape[1] // 2
        if layer.q_norm is not None and heads:
            q.copy_(layer.q_norm(q))
        if layer.k_norm is not None and rotated > heads:
            k = rows[:, heads:rotated]
            k.copy_(layer.k_norm(k))
        _rotate(rows[:, :rotated], *self._angles[shape.head_dim])
        return q, kv


def _angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Angles:
    turns = positions[:, None] * frequencies  # [T, head_dim / 2]
    cos, sin = turns.cos(), turns.sin()
    # The sign of `_rotate` stands in the sine: [-sin, sin].
    cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    return cos[:, None].to(dtype), sin[:, None].to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary embedding in place: pairs are (i, i + head_dim/2), as in HF checkpoints."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    x.mul_(cos).addcmul_(swapped, sin)


class PlainKernels:
    """As `Kernels`, on any device, in fp32 or bf16; quantized weights are slow."""

    def __init__(
        self,
        dtype: torch.dtype,
        weights: Literal["plain", "int8", "int4"] = "plain",
        kv: KV = "plain",
    ) -> None:
        self.stream = dtype
        self.pages = STORAGES[kv]
        self.draw: Draw = draw_plainly
        self.rate: Rate = rate_plainly
        self.weights = weights

    def threads(self, count: int) -> None:
        """Compute with `count` threads from now on."""
        torch.set_num_threads(count)

    def linear(self, plain: PlainLinear, *, gated: bool = False) -> PlainLinear:
        """As `Kernels.linear`."""
        if self.weights != "plain":
            return QuantizedLinear(plain, 8 if self.weights == "int8" else 4)
        plain.restore()
        plain.pack()
        return plain

    def tables(self, embedding: PlainLinear, head: PlainLinear) -> tuple[PlainLinear, PlainLinear]:
        """As `Kernels.tables`. The head is int8 where others are int4: it loses most."""
        tied = embedding is head
        if self.weights != "plain":
            head = QuantizedLinear(head, 8)
            return head if tied else embedding, head
        head.pack(keep_rows=tied)
        return embedding, head

    def step(
        self, batch: StepBatch, config: ModelConfig, page_size: int, frequencies: dict[int, Tensor]
    ) -> PlainStep:
        """As `Kernels.step`."""
        return PlainStep(batch, config, page_size, frequencies, self.stream)
