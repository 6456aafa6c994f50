"""Weights that were rounded to integers once and for all, and how a checkpoint packs them."""

from __future__ import annotations

import torch
from torch import Tensor

PACKED = ".weight_packed"  # the names' ends, beside `.weight_scale` and `.weight_shape`
SCALE = ".weight_scale"
SHAPE = ".weight_shape"


class Whole:
    """A matrix of integers and the scales that turn them back: weight = whole * scale.

    `whole` is int8 [outputs, inputs]; `scale` fp32 [outputs, groups], each for
    `group` neighbouring inputs (all of them in int8). There are no zero points.
    """

    def __init__(self, whole: Tensor, scale: Tensor, bits: int) -> None:
        self.whole = whole
        self.scale = scale
        self.bits = bits

    @staticmethod
    def empty(
        outputs: int, inputs: int, bits: int, group: int, device: torch.device | str
    ) -> Whole:
        """Room for a matrix, to be copied into."""
        return Whole(
            torch.empty(outputs, inputs, dtype=torch.int8, device=device),
            torch.empty(outputs, inputs // group, dtype=torch.float32, device=device),
            bits,
        )

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.whole.shape[1] // self.scale.shape[1]

    def floats(self) -> Tensor:
        """The weights that the integers mean, fp32 [outputs, inputs]."""
        groups = self.whole.view(*self.scale.shape, self.group)
        return (groups * self.scale[..., None]).flatten(1)


def packed(whole: Tensor, bits: int) -> Tensor:
    """Integers [outputs, inputs] plus 2^(bits-1) in words of 32 bits, the first in the lowest.

    That is "pack-quantized" of the compressed-tensors library, which transformers
    and vLLM read.
    """
    each = 32 // bits
    wide = torch.nn.functional.pad(
        whole.to(torch.int64) + (1 << bits - 1), (0, -whole.shape[1] % each)
    )
    shifts = bits * torch.arange(each)
    words = (wide.view(len(wide), -1, each) << shifts).sum(-1)
    return words.to(torch.int32)  # the highest bit becomes the sign


def unpacked(words: Tensor, bits: int, inputs: int) -> Tensor:
    """The inverse of `packed`: int8 [outputs, inputs]."""
    shifts = bits * torch.arange(32 // bits, dtype=torch.int32, device=words.device)
    wide = (words[..., None] >> shifts) & (1 << bits) - 1
    signed: Tensor = wide.flatten(1)[:, :inputs] - (1 << bits - 1)
    return signed.to(torch.int8)
