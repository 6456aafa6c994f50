"""Activations times weights, with the weights in the layout the machine likes best."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN picks a packed layout for a number of rows. The one for 32 also serves
# every other number as it is; the one for 1 would be reordered at each call.
PACK_ROWS = 32


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
