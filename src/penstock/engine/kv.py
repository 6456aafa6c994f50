"""Where the keys and values of computed tokens live: a pool of pages for each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KVLayer:
    """Shape of one layer's keys and values; pruned models vary it from layer to layer.

    A layer with `shares` keeps nothing of its own: it reads what the earlier
    layer of that index wrote, and must have the same shape.
    """

    heads: int
    head_dim: int
    shares: int | None = None


class KVPages(Protocol):
    """One layer's pages in one storage format.

    Whatever the format, K and V go in and come out in the precision of the model.
    """

    bytes_per_page: int

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """Store rows `kv` [T, 2 * heads, head_dim], K's heads first, at `slots` int64 [T].

        slot = page * page_size + offset. Of rows with one slot, any may be kept.
        """

    def gather(self, pages: Tensor) -> Tensor:
        """Copy out whole pages, in the order of `pages` int64 [N].

        Returns [2, heads, N, page_size, head_dim], contiguous. Slots never
        written hold finite numbers, so that masking them out is enough.
        """

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole pages, int64 [N] each, as if all at once: a target may be a source too."""


class PlainPages:
    """Pages kept as they are computed, in fp32 or bf16."""

    def __init__(
        self, layer: KVLayer, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # Heads outermost: gathered pages are then, head by head, the [slots, head_dim]
        # matrices that attention multiplies, and a copy moves page_size rows at once.
        rows = 2 * layer.heads
        self._shape = (2, layer.heads, -1, page_size, layer.head_dim)
        self._pages = zeros((rows, pages, page_size * layer.head_dim), dtype, device)
        self._slots = self._pages.view(rows, pages * page_size, layer.head_dim)
        self.bytes_per_page = self._pages[:, 0].nbytes

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        self._slots.index_copy_(1, slots, kv.transpose(0, 1))

    def gather(self, pages: Tensor) -> Tensor:
        """As `KVPages.gather`."""
        return self._pages.index_select(1, pages).view(self._shape)

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """As `KVPages.copy`."""
        self._pages.index_copy_(1, targets, self._pages.index_select(1, sources))


Storage = Callable[[KVLayer, int, int, torch.dtype, torch.device], KVPages]
"""Makes one layer's pages: how many of what size, in which precision, where."""


def zeros(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A pool of zeros."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros come from the kernel page by page when first written: a large
    # pool costs nothing at start, and memory only as far as it is used.
    *outer, inner = shape
    return torch.from_numpy(np.zeros((*outer, inner * dtype.itemsize), np.uint8)).view(dtype)


class KVStore:
    """The K and V of every layer, addressed by the page ids that the scheduler hands out.

    Contract:

    - Page ids are 0..pages-1 and mean the same page in every layer. The store
      knows no owner and no reference count: who may read or write a page, and
      when it is free, is the scheduler's affair. Pages need no clearing.
    - A sequence's *table* lists its pages in order. Slot i of a sequence is
      offset i % page_size of page table[i // page_size]. All pages of a table
      but the last are full. A page may be listed in many tables (a shared
      prefix), and a table may lose pages from its middle (eviction): keys carry
      their rotary position within, so what remains stays valid.
    - `layer(i)` is the store of decoder layer i; layers that share K and V
      return the same object, and only the first of them writes.
    - The storage format is an implementation of `KVPages`; neither the
      scheduler nor attention depends on it.

    Raises `ValueError` when a layer shares with one that is not earlier or has
    another shape, and for a dtype without a storage format.
    """

    def __init__(
        self,
        layers: Sequence[KVLayer],
        pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        storage: Storage = PlainPages,
    ) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"dtype={dtype} is no storage format for K and V: float32 or bfloat16."
            )
        self.pages = pages
        self.page_size = page_size
        self._layers: list[KVPages] = []
        for index, layer in enumerate(layers):
            if layer.shares is None:
                self._layers.append(storage(layer, pages, page_size, dtype, torch.device(device)))
                continue
            if not 0 <= layer.shares < index:
                raise ValueError(f"layer {index} shares K and V with {layer.shares}: not earlier.")
            other = layers[layer.shares]
            if (other.heads, other.head_dim) != (layer.heads, layer.head_dim):
                raise ValueError(
                    f"layer {index} has {layer.heads} KV heads of {layer.head_dim}, "
                    f"but shares with layer {layer.shares}: {other.heads} of {other.head_dim}."
                )
            self._layers.append(self._layers[layer.shares])

    def layer(self, index: int) -> KVPages:
        """The pages that decoder layer `index` reads."""
        return self._layers[index]

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        """Copy pages in every layer; see `KVPages.copy`."""
        for pages in self._stored():
            pages.copy(sources, targets)

    @property
    def bytes_per_page(self) -> int:
        """Bytes of one page over all layers, shared ones counted once."""
        return sum(pages.bytes_per_page for pages in self._stored())

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's K and V over all layers."""
        return self.bytes_per_page // self.page_size

    def _stored(self) -> Iterable[KVPages]:
        return {id(pages): pages for pages in self._layers}.values()
