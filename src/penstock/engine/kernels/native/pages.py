"""K and V in the tiles that the C kernels read: see attention.c."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from penstock.engine.kernels.native import library
from penstock.engine.kernels.quantized import quantize_slots
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
