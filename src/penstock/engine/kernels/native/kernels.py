"""The C kernels as a decoder asks for them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.native import library
from penstock.engine.kernels.native.linear import Format, NativeLinear
from penstock.engine.kernels.native.pages import (
    SLOTS,
    TiledInt4Pages,
    TiledInt8Pages,
    TiledPages,
)
from penstock.engine.kernels.native.step import NativeStep
from penstock.engine.kv import Storage
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.config import ModelConfig
from penstock.engine.options import KV

MOST_DIM = 512  # as in pages.h
STORAGES: dict[KV, Storage] = {
    "plain": TiledPages,
    "int8": TiledInt8Pages,
    "int4": TiledInt4Pages,
}


class NativeKernels:
    """As `Kernels`, for a decoder in bf16 on the CPU.

    Raises `library.NotHere` where they cannot run.
    """

    def __init__(self, weights: Format, kv: KV = "plain") -> None:
        library.library()
        self.stream = torch.float32
        self.pages = STORAGES[kv]
        self.weights: Literal["plain", "int8", "int4"] = "plain" if weights == "bf16" else weights
        self._format: Format = weights

    @staticmethod
    def lacking(config: ModelConfig, page_size: int) -> str | None:
        """Why they cannot serve this model with pages of this size; None where they can."""
        if page_size % SLOTS:
            return f"page_size={page_size} is no multiple of {SLOTS}"
        for layer in config.layers:
            if layer.head_dim % 16 or layer.head_dim > MOST_DIM:
                return f"head_dim={layer.head_dim} is no multiple of 16 up to {MOST_DIM}"
        held = config.quantization
        if held is not None and held.group is not None and held.group % 16:
            return f"group_size={held.group} is no multiple of 16"
        return None

    def threads(self, count: int) -> None:
        """Compute with `count` threads from now on."""
        library.library().penstock_threads(count)

    def linear(self, plain: PlainLinear, *, gated: bool = False) -> NativeLinear:
        """As `Kernels.linear`."""
        return NativeLinear(plain, self._format, gated=gated)

    def tables(
        self, embedding: PlainLinear, head: PlainLinear
    ) -> tuple[PlainLinear | NativeLinear, NativeLinear]:
        """As `Kernels.tables`."""
        native = NativeLinear(head, "int8" if self._format == "int4" else self._format)
        return native if embedding is head else embedding, native

    def draw(
        self, logits: Tensor, temperature: NDArray[np.float32], keys: NDArray[np.int64]
    ) -> Tensor:
        """As `sampling.draw_plainly`."""
        tokens = torch.empty(len(logits), dtype=torch.int64)
        library.library().penstock_draw(
            logits.data_ptr(),
            *logits.shape,
            temperature.ctypes.data,
            keys.ctypes.data,
            tokens.data_ptr(),
        )
        return tokens

    def rate(self, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `scores.rate_plainly`, in two passes over a row that stays in cache.

        PyTorch's operations write and read whole matrices in between: of a vocabulary of
        152,000 they take 1.2 ms a row.
        """
        logits = logits.contiguous()
        logprobs = torch.empty(len(logits), dtype=torch.float32)
        ranks = torch.empty(len(logits), dtype=torch.int64)
        library.library().penstock_score(
            logits.data_ptr(),
            *logits.shape,
            tokens.data_ptr(),
            logprobs.data_ptr(),
            ranks.data_ptr(),
        )
        return logprobs, ranks

    def step(
        self, batch: StepBatch, config: ModelConfig, page_size: int, frequencies: dict[int, Tensor]
    ) -> NativeStep:
        """As `Kernels.step`."""
        return NativeStep(batch, page_size, frequencies)
