"""K and V in the tiles that the C kernels read: see pages.h."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from penstock.engine.kernels.native import library
from penstock.engine.kernels.quantized import (
    from_nibbles,
    hadamard,
    packed,
    quantize_slots,
    to_nibbles,
    unpacked,
)
from penstock.engine.kv import KVLayer, zeros

SLOTS = 16  # of a tile


class TiledPages:
    """`KVPages` in bf16, in tiles of 16 slots.

    A tile of K is [head_dim / 2, 16, 2], a tile of V [8, head_dim, 2]: what one
    product instruction takes lies together.
    """

    together = 2  # numbers of one slot in K, or slots of one number in V, that lie together
    stored = torch.bfloat16

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads, head_dim = layer.heads, layer.head_dim
        self._pages = zeros((2 * heads, pages, page_size * head_dim), self.stored, device)
        tiles, together = (heads, pages, page_size // SLOTS), self.together
        self._k = self._pages[:heads].view(*tiles, head_dim // together, SLOTS, together)
        self._v = self._pages[heads:].view(*tiles, SLOTS // together, head_dim, together)
        self.page_size = page_size
        self.bytes_per_page = self._pages[:, 0].nbytes
        self._native = library.Pages(
            data=self._pages.data_ptr(),
            scale=0,
            kv_heads=heads,
            head_dim=head_dim,
            pages=pages,
            page_size=page_size,
            bits=16,
        )
        self.address = ctypes.addressof(self._native)

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        heads, together = len(self._k), self.together
        page, offset = slots // self.page_size, slots % self.page_size
        tile, lane = offset // SLOTS, offset % SLOTS
        k = kv[:, :heads].reshape(len(kv), heads, -1, together)
        self._k[:, page, tile, :, lane] = k
        self._v[:, page, tile, lane // together, :, lane % together] = kv[:, heads:]

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        k = self._k[:, pages].transpose(-2, -3)  # [.., slots, head_dim / together, together]
        v = self._v[:, pages].transpose(-1, -2)  # [.., slots / together, together, head_dim]
        head_dim = v.shape[-1]
        return torch.stack([x.reshape(*x.shape[:2], -1, head_dim) for x in (k, v)])

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        self._pages.index_copy_(1, targets, self._pages.index_select(1, sources))


class TiledInt8Pages(TiledPages):
    """The same in int8: a scale for the K and one for the V of each slot and head.

    What lies together is 4 for 2, and K is stored as k + 128.
    """

    together = 4
    stored = torch.uint8

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(layer, pages, page_size, dtype, device)
        self._dtype = dtype
        self._scale = zeros((2 * layer.heads, pages, page_size), torch.float32, device)
        self._native.scale = self._scale.data_ptr()
        self._native.bits = 8
        self.bytes_per_page += self._scale[:, 0].nbytes

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        whole, scale = quantize_slots(kv)
        k, v = whole.view(torch.uint8).chunk(2, dim=1)
        super().write(slots, torch.cat((k ^ 128, v), dim=1))
        self._scale.view(len(self._scale), -1)[:, slots] = scale.T

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        stored = super().gather(pages)
        stored[0] ^= 128
        scale = self._scale.index_select(1, pages).view(*stored.shape[:-1], 1)
        return (stored.view(torch.int8) * scale).to(self._dtype)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        super().copy(sources, targets)
        self._scale.index_copy_(1, targets, self._scale.index_select(1, sources))


class TiledInt4Pages(TiledInt8Pages):
    """The same in int4: a head is spread by Hadamard's matrix, and a byte has two numbers.

    They lie 4 apart in K, 16 apart in V. The 4 bytes of a scale are two bf16, its grid.
    Heads of 16, 48, ... are filled up to the next multiple of 32.
    """

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        width = -(-layer.head_dim // 32) * 16
        super().__init__(KVLayer(layer.heads, width), pages, page_size, dtype, device)
        self._native.head_dim, self._native.bits = layer.head_dim, 4
        self._spread = hadamard(layer.head_dim, device)
        self._grid = self._scale.view(torch.bfloat16)  # [2 * heads, pages, page_size * 2]

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        nibbles, grid = to_nibbles(kv, self._spread)
        nibbles = pad(nibbles, (0, -nibbles.shape[-1] % 32))
        k, v = nibbles.chunk(2, dim=1)
        TiledPages.write(self, slots, torch.cat((packed(k, 4), packed(v, 16)), dim=1))
        self._grid.view(len(self._grid), -1, 2)[:, slots] = grid.transpose(0, 1)

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        k, v = TiledPages.gather(self, pages)
        nibbles = torch.stack((unpacked(k, 4), unpacked(v, 16)))[..., : len(self._spread)]
        grid = self._grid.index_select(1, pages).view(*nibbles.shape[:-1], 2)
        return from_nibbles(nibbles, grid, self._spread, self._dtype)
