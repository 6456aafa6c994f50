"""Activations times weights, in PyTorch's operations."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.whole import Whole

# oneDNN picks a packed layout for a number of rows. The one for 32 also serves
# every other number as it is; the one for 1 would be reordered at each call.
PACK_ROWS = 32


class Linear(Protocol):
    """A matrix of weights [outputs, inputs] and what a decoder does with it.

    `x` [T, inputs] is the stream that runs through the layers, in the precision
    its kernels keep it in; the matrix knows the norm that stands before it. `h`
    is a result within a layer, and has none.
    """

    @property
    def outputs(self) -> int:
        """Rows of the matrix."""

    @property
    def inputs(self) -> int:
        """Columns of the matrix."""

    @property
    def parameters(self) -> int:
        """Weights and biases, however they are stored."""

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""

    def __call__(self, x: Tensor) -> Tensor:
        """`norm(x) @ weight.T + bias`: [T, outputs]."""

    def gated(self, x: Tensor) -> Tensor:
        """`silu(gate) * up`, the halves of that: [T, outputs / 2] (Shazeer 2020)."""

    def logits(self, x: Tensor) -> Tensor:
        """As a call, in fp32."""

    def add(self, x: Tensor, h: Tensor) -> None:
        """Add `h @ weight.T + bias` to `x` [T, outputs], in place."""

    def rows(self, which: Tensor) -> Tensor:
        """Rows of the matrix, as an embedding: [len(which), inputs]."""


class PlainLinear:
    """As `Linear`, in fp32 or bf16, on any device.

    Of a checkpoint that holds integers, `whole` has them, and `weight` only a shape
    and a precision until `restore`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: RMSNorm | None = None,
        whole: Whole | None = None,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.norm = norm
        self.whole = whole
        self._packed = weight

    @property
    def outputs(self) -> int:
        """As `Linear.outputs`."""
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """As `Linear.inputs`."""
        return self.weight.shape[1]

    @property
    def parameters(self) -> int:
        """As `Linear.parameters`."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    @property
    def nbytes(self) -> int:
        """As `Linear.nbytes`."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def restore(self) -> None:
        """Turn integers, where there are any, back into weights of this precision."""
        if self.whole is not None:
            self.weight = self._packed = self.whole.floats().to(self.weight.dtype)
            self.whole = None

    def pack(self, *, keep_rows: bool = False) -> None:
        """Bring the weights into the layout this machine multiplies fastest.

        They can be read no more afterwards, unless `rows` needs them.
        """
        self._packed = pack(self.weight)
        if not keep_rows:
            self.weight = self._packed

    def __call__(self, x: Tensor) -> Tensor:
        """As `Linear.__call__`."""
        assert self.norm is not None
        return self._product(self.norm(x))

    def gated(self, x: Tensor) -> Tensor:
        """As `Linear.gated`."""
        gate, up = self(x).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def logits(self, x: Tensor) -> Tensor:
        """As `Linear.logits`."""
        return self(x).float()

    def add(self, x: Tensor, h: Tensor) -> None:
        """As `Linear.add`."""
        x.add_(self._product(h))

    def rows(self, which: Tensor) -> Tensor:
        """As `Linear.rows`."""
        return F.embedding(which, self.weight)

    def _product(self, h: Tensor) -> Tensor:
        return linear(h, self._packed, self.bias)


def plain(matrix: Linear) -> PlainLinear:
    """`matrix`, of which the caller knows that no kernel has packed it yet."""
    assert isinstance(matrix, PlainLinear)
    return matrix


def pack(weight: Tensor) -> Tensor:
    """Copy `weight` [out, in] into oneDNN's blocked layout, for `linear` alone to read.

    Returns `weight` itself where that gains nothing: on another device, without
    oneDNN, or in bf16 on a CPU without instructions for it.
    """
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return weight
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`: [T, in] to [T, out]. `weight` may be packed."""
    if weight.is_mkldnn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)
