"""Quantized weights, K and V in PyTorch's operations: what the fast kernels compute, said plainly.

Slow everywhere: it turns every weight back into a float for every product. It is
the reference of the tests, and lets quality be judged where no fast kernel runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kv import KVLayer, zeros

GROUP = 128  # inputs of int4 weights that share a scale


def balance(largest: Tensor, norm: Tensor) -> Tensor:
    """By how much to multiply each column of a matrix and to divide its norm's weight; fp32.

    `largest` are the largest magnitudes in the columns, `norm` the norm's weights.
    A channel that a norm makes large spoils the scale of whole rows of activations.
    Dividing it there and multiplying it in the matrix changes nothing else, so
    both get an even share of it (SmoothQuant, Xiao et al. 2023, at 1/2; in place of
    activations, which would take data to know, stand the weights of the norm).
    """
    ratio = norm.float().abs() / largest
    return ratio.sqrt().masked_fill_((largest == 0) | (norm == 0), 1.0)


class QuantizedLinear(PlainLinear):
    """As `Linear`, with weights in int8 (a scale each output) or int4 (each `GROUP` inputs).

    Rows are quantized to int8 by their own scale. All scales are symmetric. What a
    checkpoint holds as integers is taken as it is.
    """

    def __init__(self, plain: PlainLinear, bits: int) -> None:
        super().__init__(plain.weight, plain.bias, plain.norm)
        self._balance: Tensor | None = None
        if plain.whole is not None:
            self._scale = plain.whole.scale[..., None]  # [outputs, groups, 1]
            self._whole = plain.whole.whole.view(*plain.whole.scale.shape, -1)
        else:
            weight = plain.weight.float()
            if plain.norm is not None:
                self._balance = balance(weight.abs().amax(0), plain.norm.weight)
                weight = weight * self._balance
                self.norm = RMSNorm(plain.norm.weight.float() / self._balance, plain.norm.eps)
            group = GROUP if bits == 4 else self.inputs
            wide = torch.nn.functional.pad(weight, (0, -self.inputs % group))
            groups = wide.view(len(wide), -1, group)
            self._scale = scales(groups, bits)
            self._whole = rounded(groups, self._scale, bits)
        self._bits = bits
        self._dtype = plain.weight.dtype
        # Its shape alone: nothing here holds on to the weights themselves.
        self.weight = self._packed = torch.empty_like(plain.weight, device="meta")

    @property
    def nbytes(self) -> int:
        """As `Linear.nbytes`, were it packed as tightly as its format permits."""
        bias: int = 0 if self.bias is None else self.bias.nbytes
        whole: int = self._whole.numel() * self._bits // 8
        scale: int = self._scale.nbytes
        return whole + scale + bias

    def rows(self, which: Tensor) -> Tensor:
        """As `Linear.rows`."""
        rows: Tensor = (self._whole[which] * self._scale[which]).flatten(1)[:, : self.inputs]
        return (rows if self._balance is None else rows / self._balance).to(self._dtype)

    def _product(self, h: Tensor) -> Tensor:
        wide = h.float()
        scale = wide.abs().amax(-1, keepdim=True) / 127
        whole = (wide / scale).nan_to_num_(0).round_()
        weight = (self._whole * self._scale).flatten(1)[:, : self.inputs]
        out: Tensor = whole @ weight.T * scale
        return (out if self.bias is None else out + self.bias.float()).to(h.dtype)


def scales(groups: Tensor, bits: int) -> Tensor:
    """The scale of each group of weights, fp32 [..., inputs] to [..., 1].

    In int8 the largest magnitude is 127 of it. In int4 the extreme weight is -8
    of it, or is cut off where a smaller scale serves the others better: the least
    squared error of eight decides.
    """
    if bits == 8:
        return groups.abs().amax(-1, keepdim=True) / 127
    tried = candidates(groups)
    errors = torch.stack(
        [(groups - scale * rounded(groups, scale, bits)).square_().sum(-1, True) for scale in tried]
    )
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def candidates(groups: Tensor) -> Tensor:
    """The scales that are tried for each group of int4 weights: [8, ..., 1]."""
    edge = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    return torch.stack([edge * (1 - 0.05 * i) for i in range(8)])


def rounded(groups: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The integers nearest to the weights in units of `scale`, in int8; 0 where that is 0."""
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    return (groups / scale).nan_to_num_(0).round_().clamp_(low, high).to(torch.int8)


def quantize_slots(kv: Tensor) -> tuple[Tensor, Tensor]:
    """`kv` [T, rows, head_dim] as int8, and the fp32 scale of each token and head [T, rows]."""
    wide = kv.float()
    scale = wide.abs().amax(-1, keepdim=True) / 127
    whole = (wide / scale).nan_to_num_(0).round_().to(torch.int8)
    return whole, scale[..., 0]


class Int8Pages:
    """`KVPages` in int8, with a scale for the K and one for the V of each slot and head."""

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows = 2 * layer.heads
        self._dtype = dtype
        self._shape = (2, layer.heads, -1, page_size, layer.head_dim)
        self._pages = zeros((rows, pages, page_size * layer.head_dim), torch.int8, device)
        self._slots = self._pages.view(rows, pages * page_size, layer.head_dim)
        self._scale = zeros((rows, pages, page_size), torch.float32, device)
        self.bytes_per_page = self._pages[:, 0].nbytes + self._scale[:, 0].nbytes

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        whole, scale = quantize_slots(kv)
        self._slots.index_copy_(1, slots, whole.transpose(0, 1))
        self._scale.view(len(self._scale), -1).index_copy_(1, slots, scale.T)

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        whole = self._pages.index_select(1, pages).view(self._shape)
        scale = self._scale.index_select(1, pages).view(*whole.shape[:-1], 1)
        return (whole * scale).to(self._dtype)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        for stored in (self._pages, self._scale):
            stored.index_copy_(1, targets, stored.index_select(1, sources))


def hadamard(head_dim: int, device: torch.device) -> Tensor:
    """An orthonormal matrix [head_dim, head_dim] that is its own inverse.

    What one channel holds it spreads evenly over the power of two of channels that
    divides `head_dim`, so that one scale serves all of a head. Where queries and keys
    both go through it their products stay (QuaRot, Ashkboos et al. 2024).
    """
    size = head_dim & -head_dim
    block = torch.ones(1, 1)
    while len(block) < size:
        block = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), block)
    blocks = torch.eye(head_dim // size)
    return torch.kron(blocks, block / size**0.5).to(device)


def packed(nibbles: Tensor, apart: int) -> Tensor:
    """Two numbers of four bits in a byte: uint8 [..., n] to [..., n / 2].

    Those of a byte lie `apart` numbers apart, the first in the lower bits.
    """
    low, high = nibbles.reshape(*nibbles.shape[:-1], -1, 2, apart).unbind(-2)
    return (low | high << 4).flatten(-2)


def unpacked(both: Tensor, apart: int) -> Tensor:
    """The numbers that `packed` took."""
    both = both.view(*both.shape[:-1], -1, apart)
    return torch.stack((both & 15, both >> 4), dim=-2).flatten(-3)


def to_nibbles(kv: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """`kv` [T, rows, head_dim] in four bits, once the matrix `spread` has spread it.

    Returns u, uint8 in 0..15 of that shape, and their grid, bf16 [T, rows, 2]: a scale
    and a middle, for middle + (u - 7.5) * scale.
    """
    wide = kv.float() @ spread
    least, most = wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True)
    scale = ((most - least) / 15).to(torch.bfloat16)
    middle = ((least + most) / 2).to(torch.bfloat16)
    steps = ((wide - middle.float()) / scale.float()).nan_to_num_(0) + 7.5
    return steps.round_().clamp_(0, 15).to(torch.uint8), torch.cat((scale, middle), dim=-1)


def from_nibbles(nibbles: Tensor, grid: Tensor, spread: Tensor, dtype: torch.dtype) -> Tensor:
    """What `to_nibbles` was given, as far as it was kept."""
    scale, middle = grid.float().chunk(2, dim=-1)
    return (((nibbles.float() - 7.5) * scale + middle) @ spread).to(dtype)


class Int4Pages:
    """`KVPages` in int4: a head is spread by Hadamard's matrix, then one grid serves it.

    It is spread back when it is read, so nobody else need know.
    """

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows, width = 2 * layer.heads, layer.head_dim // 2
        self._dtype = dtype
        self._spread = hadamard(layer.head_dim, device)
        self._shape = (2, layer.heads, -1, page_size)
        self._pages = zeros((rows, pages, page_size * width), torch.uint8, device)
        self._grid = zeros((rows, pages, page_size * 2), torch.bfloat16, device)
        self.bytes_per_page = self._pages[:, 0].nbytes + self._grid[:, 0].nbytes

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        nibbles, grid = to_nibbles(kv, self._spread)
        both = packed(nibbles, kv.shape[-1] // 2)
        for stored, new in ((self._pages, both), (self._grid, grid)):
            by_slot = stored.view(len(stored), -1, new.shape[-1])
            by_slot.index_copy_(1, slots, new.transpose(0, 1))

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        half = len(self._spread) // 2
        nibbles = unpacked(self._pages.index_select(1, pages).view(*self._shape, half), half)
        grid = self._grid.index_select(1, pages).view(*self._shape, 2)
        return from_nibbles(nibbles, grid, self._spread, self._dtype)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        for stored in (self._pages, self._grid):
            stored.index_copy_(1, targets, stored.index_select(1, sources))
