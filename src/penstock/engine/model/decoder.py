"""The transformer: from a ragged batch of tokens to logits."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from penstock.engine.kernels.linear import Linear, PlainLinear, plain
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.plain import PlainKernels
from penstock.engine.kv import KVLayer, KVPages, KVStore, Storage
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.layer import Layer
from penstock.engine.sampling import Draw
from penstock.engine.scores import Rate


class Step(Protocol):
    """What the layers of one step share, for all its rows."""

    def attend(self, layer: Layer, y: Tensor, pages: KVPages) -> Tensor:
        """Store K and V of `y`, the product with `layer.qkv`; attend: [T, heads * head_dim].

        Where that makes queries alone, K and V are in `pages` already.
        """

    def store(self, layer: Layer, kv: Tensor, pages: KVPages) -> None:
        """Store K and V, the product with `layer.kv`."""


class Kernels(Protocol):
    """How a decoder multiplies and attends, on one device, in one precision."""

    @property
    def stream(self) -> torch.dtype:
        """The precision of what runs between layers."""

    @property
    def weights(self) -> Literal["plain", "int8", "int4"]:
        """The format that layers are multiplied in; plain: that of the stream or less."""

    @property
    def pages(self) -> Storage:
        """How K and V are stored."""

    def threads(self, count: int) -> None:
        """Compute with `count` threads from now on."""

    def linear(self, plain: PlainLinear, *, gated: bool = False) -> Linear:
        """Bring a matrix into its last form; `plain` is not to be used again.

        `gated` says that only `Linear.gated` will be called.
        """

    def tables(self, embedding: PlainLinear, head: PlainLinear) -> tuple[Linear, Linear]:
        """As `linear`, for the embedding and the head, which may be one matrix."""

    @property
    def draw(self) -> Draw:
        """Chooses tokens: see `sampling.draw_plainly`."""

    @property
    def rate(self) -> Rate:
        """Says how likely tokens were: see `scores.rate_plainly`."""

    def step(
        self, batch: StepBatch, config: ModelConfig, page_size: int, frequencies: dict[int, Tensor]
    ) -> Step:
        """Prepare what all layers of one step share; `frequencies` by head size."""


class Decoder:
    """A decoder-only transformer. Construction leaves the weights unset: see `loader`.

    Without `kernels` it has PyTorch's.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device | str,
        kernels: Kernels | None = None,
    ) -> None:
        def table() -> PlainLinear:
            weight = torch.empty(vocab, hidden, dtype=dtype, device=device)
            return PlainLinear(weight, norm=self.norm)

        vocab, hidden = config.vocab_size, config.hidden_size
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.norm = RMSNorm(torch.empty(hidden, dtype=dtype, device=device), config.norm_eps)
        # Of deep layers alone: before the one input that the K and V of all are made of.
        self.kv_norm = RMSNorm(torch.empty(hidden, dtype=dtype, device=device), config.norm_eps)
        self.embedding: Linear = table()
        self.layers = [Layer(shape, config, dtype, device, self.kv_norm) for shape in config.layers]
        self.head: Linear = self.embedding if config.tied_embeddings else table()
        self.kernels: Kernels = kernels or PlainKernels(dtype)
        self._full_layers = config.full_layers
        self._frequencies = {
            size: torch.tensor(config.rope.frequencies(size), dtype=torch.float32, device=device)
            for size in {layer.head_dim for layer in config.layers}
        }

    def pack_layer(self, index: int) -> None:
        """Give a layer's matrices, which are set, the form its kernels multiply. Call once."""
        layer, kernels = self.layers[index], self.kernels
        layer.qkv = kernels.linear(plain(layer.qkv))
        if layer.kv is not None:
            layer.kv = kernels.linear(plain(layer.kv))
        layer.output = kernels.linear(plain(layer.output))
        layer.gate_up = kernels.linear(plain(layer.gate_up), gated=True)
        layer.down = kernels.linear(plain(layer.down))

    def pack_tables(self) -> None:
        """The same for the embedding and the head."""
        tables = plain(self.embedding), plain(self.head)
        self.embedding, self.head = self.kernels.tables(*tables)

    def kv_layers(self) -> list[KVLayer]:
        """What a `KVStore` must hold for this model."""
        return [
            KVLayer(layer.kv_heads, layer.head_dim, layer.shares_kv) for layer in self.config.layers
        ]

    def forward(self, batch: StepBatch, kv: KVStore) -> Tensor:
        """Take every row of `batch` through the model, writing its K and V into `kv`.

        Rows go only as far as they are needed: those whose logits nobody wants end with
        the last K and V that are made of theirs. Returns fp32 logits [L, vocab] of
        `batch.logit_rows`. The caller holds `torch.inference_mode()`.
        """
        x = self.embedding.rows(batch.tokens).to(self.kernels.stream)  # [T, hidden]
        every = step = self._step(batch, kv)
        source, full = x, self._full_layers
        for index, layer in enumerate(self.layers):
            if index == full:
                source, x = x, x.index_select(0, batch.logit_rows)
                if (wanted := batch.wanted()) is not batch:
                    step = self._step(wanted, kv)
            h = layer.qkv(x)
            if layer.kv is not None:
                every.store(layer, layer.kv(source), kv.layer(index))
            h = step.attend(layer, h, kv.layer(index))
            if layer is self.layers[-1] and step is every:
                x, h = (rows.index_select(0, batch.logit_rows) for rows in (x, h))
            layer.output.add(x, h)
            h = layer.gate_up.gated(x)
            layer.down.add(x, h)
        return self.head.logits(x)

    def _step(self, batch: StepBatch, kv: KVStore) -> Step:
        return self.kernels.step(batch, self.config, kv.page_size, self._frequencies)
