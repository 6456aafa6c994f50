"""Memory in large pages: for weights, many matrices to a piece, and for logits, lent.

All weights go by in every step, and with pages of 4 KiB the processor spends much
of that time on finding out where they are. A page of 2 MiB has to lie in one
piece of memory, and most matrices are not much larger than that.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.kernels.native import library

_PAGE = 2 << 20
_PIECE = 64 << 20
_LINE = 64
_LEAST, _MOST = 1 << 20, 256 << 20  # bytes that are lent: fewer are cheap, more are too many


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


class _Lent:
    """Pieces that come back once nothing uses them any more, to be lent again.

    An allocator returns large pieces to the system, and to get one anew, page by page,
    takes as long as computing the logits it is for (64 rows of 152,000: 41 ms, not 21).
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def lend(self, count: int) -> Tensor:
        """`count` bytes, of any content."""
        if not _LEAST <= count <= _MOST:
            return torch.empty(count, dtype=torch.uint8)
        piece = self._free.pop() if self._free else None
        if piece is None or len(piece) < count:  # a smaller one is not wanted again
            piece = _piece(-(-count // _PAGE) * _PAGE).numpy()
        view = piece[:count]
        back = weakref.finalize(view, self._free.append, piece)
        back.atexit = False
        return torch.from_numpy(view)


take = _Pieces().take
lend = _Lent().lend
