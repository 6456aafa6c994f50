"""Quantized weights in PyTorch's operations: what the fast kernels compute, said plainly.

Slow everywhere: it turns every weight back into a float for every product. It is
the reference of the tests, and lets quality be judged where no fast kernel runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.engine.kernels.linear import PlainLinear

GROUP = 128  # inputs of int4 weights that share a scale


class QuantizedLinear(PlainLinear):
    """As `Linear`, with weights in int8 (a scale each output) or int4 (each `GROUP` inputs).

    Rows are quantized to int8 by their own scale. All scales are symmetric.
    """

    def __init__(self, plain: PlainLinear, bits: int) -> None:
        super().__init__(plain.weight, plain.bias)
        group = GROUP if bits == 4 else self.inputs
        most = 2 ** (bits - 1) - 1
        wide = torch.nn.functional.pad(plain.weight.float(), (0, -self.inputs % group))
        groups = wide.view(len(wide), -1, group)
        self._scale = groups.abs().amax(-1, keepdim=True) / most  # [outputs, groups, 1]
        self._whole = (groups / self._scale).nan_to_num_(0).round_().to(torch.int8)
        self._bits = bits
        self._dtype = plain.weight.dtype
        self.weight = torch.empty_like(plain.weight, device="meta")  # its shape alone

    @property
    def nbytes(self) -> int:
        """As `Linear.nbytes`, were it packed as tightly as its format permits."""
        bias: int = 0 if self.bias is None else self.bias.nbytes
        whole: int = self._whole.numel() * self._bits // 8
        scale: int = self._scale.nbytes
        return whole + scale + bias

    def rows(self, which: Tensor) -> Tensor:
        """As `Linear.rows`."""
        rows: Tensor = (self._whole[which] * self._scale[which]).flatten(1)
        return rows[:, : self.inputs].to(self._dtype)

    def pack(self, *, keep_rows: bool = False) -> None:
        """Nothing to do: packed as it was made."""

    def _product(self, h: Tensor) -> Tensor:
        wide = h.float()
        scale = wide.abs().amax(-1, keepdim=True) / 127
        whole = (wide / scale).nan_to_num_(0).round_()
        weight = (self._whole * self._scale).flatten(1)[:, : self.inputs]
        out: Tensor = whole @ weight.T * scale
        return (out if self.bias is None else out + self.bias.float()).to(h.dtype)
