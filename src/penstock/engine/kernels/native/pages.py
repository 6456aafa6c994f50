"""K and V in the tiles that the C kernels read: see attention.c."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from penstock.engine.kernels.native import library
from penstock.engine.kv import KVLayer, zeros

SLOTS = 16  # of a tile


class TiledPages:
    """`KVPages` in bf16, in tiles of 16 slots.

    A tile of K is [head_dim / 2, 16, 2], a tile of V [8, head_dim, 2]: what one
    product instruction takes lies together.
    """

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads, head_dim = layer.heads, layer.head_dim
        self._pages = zeros((2 * heads, pages, page_size * head_dim), dtype, device)
        tiles = (heads, pages, page_size // SLOTS)
        self._k = self._pages[:heads].view(*tiles, head_dim // 2, SLOTS, 2)
        self._v = self._pages[heads:].view(*tiles, SLOTS // 2, head_dim, 2)
        self.page_size = page_size
        self.bytes_per_page = self._pages[:, 0].nbytes
        self._native = library.Pages(
            data=self._pages.data_ptr(),
            kv_heads=heads,
            head_dim=head_dim,
            pages=pages,
            page_size=page_size,
        )
        self.address = ctypes.addressof(self._native)

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        heads, _, tiles = self._k.shape[:3]
        page, offset = slots // (tiles * SLOTS), slots % (tiles * SLOTS)
        tile, lane = offset // SLOTS, offset % SLOTS
        self._k[:, page, tile, :, lane] = kv[:, :heads].reshape(len(kv), heads, -1, 2)
        self._v[:, page, tile, lane // 2, :, lane % 2] = kv[:, heads:]

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        k = self._k[:, pages].permute(0, 1, 2, 4, 3, 5)  # [.., tiles, slots, head_dim / 2, 2]
        v = self._v[:, pages].transpose(-1, -2)  # [.., tiles, slots / 2, 2, head_dim]
        head_dim = v.shape[-1]
        return torch.stack([x.reshape(*x.shape[:2], -1, head_dim) for x in (k, v)])

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        self._pages.index_copy_(1, targets, self._pages.index_select(1, sources))
