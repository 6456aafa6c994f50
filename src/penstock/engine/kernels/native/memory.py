"""Memory for weights: large pages, many matrices to a piece.

All weights go by in every step, and with pages of 4 KiB the processor spends much
of that time on finding out where they are. A page of 2 MiB has to lie in one
piece of memory, and most matrices are not much larger than that.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from penstock.engine.kernels.native import library

_PAGE = 2 << 20
_PIECE = 64 << 20
_LINE = 64


class _Pieces:
    """The piece that is being filled; it lives as long as a matrix in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = torch.empty(0, dtype=torch.uint8)

    def take(self, count: int) -> Tensor:
        """`count` bytes, at the start of a cache line."""
        size = -(-count // _LINE) * _LINE
        with self._lock:
            if size > len(self._left):
                self._left = _piece(max(size, _PIECE))
            taken, self._left = self._left[:count], self._left[size:]
        return taken


def _piece(size: int) -> Tensor:
    memory = torch.empty(size + _PAGE, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % _PAGE :][:size]
    library.library().penstock_large_pages(memory.data_ptr(), size)
    return memory


take = _Pieces().take
