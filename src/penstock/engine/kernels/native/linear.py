"""Matrices of weights that the C kernels multiply: bf16, int8 or int4."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor

from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.native import library, memory
from penstock.engine.kernels.native.panels import panels, scales
from penstock.engine.kernels.quantized import GROUP, balance
from penstock.engine.kernels.whole import Whole

Format = Literal["bf16", "int8", "int4"]

_FORMATS = {"bf16": 0, "int8": 1, "int4": 2}
_STORE_BF16, _STORE_FP32, _ADD_FP32, _GATED_BF16 = range(4)


class NativeLinear:
    """As `Linear`, for fp32 activations between layers and bf16 ones within.

    int8: every output has a scale; int4: every group of `GROUP` inputs of an
    output. Both multiply rows that are quantized to int8 by their own scale. What
    a checkpoint holds as integers of this format is taken as it is.
    """

    def __init__(self, plain: PlainLinear, form: Format, *, gated: bool = False) -> None:
        self._balance: Tensor | None = None
        if plain.norm is not None:
            self._norm, self._eps = plain.norm.weight.float(), plain.norm.eps
        self.outputs, self.inputs, self.parameters = plain.outputs, plain.inputs, plain.parameters
        self._library = library.library()
        self._native = library.Linear(
            outputs=self.outputs,
            inputs=self.inputs,
            format=_FORMATS[form],
            group=plain.whole.group if plain.whole is not None and form == "int4" else GROUP,
            gated=gated,
        )
        self._address = ctypes.addressof(self._native)
        sizes = (ctypes.c_int64 * 2)()
        self._library.penstock_sizes(
            self._address, ctypes.addressof(sizes), ctypes.addressof(sizes) + 8
        )
        self._data = memory.take(sizes[0])
        self._scale = torch.empty(sizes[1], dtype=torch.float32)
        self._bias = None if plain.bias is None else plain.bias.float().contiguous()
        self._native.data = self._data.data_ptr()
        self._native.scale = self._scale.data_ptr()
        self._native.bias = 0 if self._bias is None else self._bias.data_ptr()
        if plain.whole is None:
            self._pack(plain, form)
        else:
            self._take(plain.whole, gated)

    def _take(self, whole: Whole, gated: bool) -> None:
        """Lay integers and scales as they are into the panels."""
        self._data.copy_(panels(whole, gated))
        self._scale.copy_(scales(whole, gated))

    def _pack(self, plain: PlainLinear, form: Format) -> None:
        """Fill the panels from weights, quantizing them where the format asks for it."""
        weight = plain.weight.contiguous()
        if plain.norm is not None and form != "bf16":
            self._balance = balance(_columns(weight), plain.norm.weight)
            self._norm = self._norm / self._balance
        self._library.penstock_pack(
            self._address,
            weight.data_ptr(),
            weight.dtype == torch.float32,
            None if self._balance is None else self._balance.data_ptr(),
            self._data.data_ptr(),
            self._scale.data_ptr(),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        bias = 0 if self._bias is None else self._bias.nbytes
        return self._data.nbytes + self._scale.nbytes + bias

    def __call__(self, x: Tensor) -> Tensor:
        """As `Linear.__call__`."""
        out = torch.empty((x.shape[0], self.outputs), dtype=torch.bfloat16)
        return self._into(out, x, _STORE_BF16)

    def gated(self, x: Tensor) -> Tensor:
        """As `Linear.gated`."""
        out = torch.empty((x.shape[0], self.outputs // 2), dtype=torch.bfloat16)
        return self._into(out, x, _GATED_BF16)

    def logits(self, x: Tensor) -> Tensor:
        """As `Linear.logits`."""
        room = memory.lend(4 * len(x) * self.outputs).view(torch.float32)
        return self._into(room.view(len(x), self.outputs), x, _STORE_FP32)

    def add(self, x: Tensor, h: Tensor) -> None:
        """As `Linear.add`."""
        self._library.penstock_linear(
            None, h.data_ptr(), None, 0.0, self._address, x.data_ptr(), _ADD_FP32, h.shape[0]
        )

    def rows(self, which: Tensor) -> Tensor:
        """As `Linear.rows`, in fp32."""
        out = torch.empty((len(which), self.inputs), dtype=torch.float32)
        self._library.penstock_unpack(self._address, which.data_ptr(), len(which), out.data_ptr())
        return out if self._balance is None else out.div_(self._balance)

    def _into(self, out: Tensor, x: Tensor, output: int) -> Tensor:
        self._library.penstock_linear(
            x.data_ptr(),
            None,
            self._norm.data_ptr(),
            self._eps,
            self._address,
            out.data_ptr(),
            output,
            x.shape[0],  # not len(x), which takes PyTorch longer, and a step asks often
        )
        return out


def _columns(weight: Tensor) -> Tensor:
    """The largest magnitude in each column, without a copy of the matrix."""
    largest = torch.empty(weight.shape[1], dtype=torch.float32)
    library.library().penstock_columns(
        weight.data_ptr(), weight.dtype == torch.float32, *weight.shape, largest.data_ptr()
    )
    return largest
