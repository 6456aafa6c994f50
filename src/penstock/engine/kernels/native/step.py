"""Attention of one step over tiled pages."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from penstock.engine.kernels import attention
from penstock.engine.kernels.native import library
from penstock.engine.kernels.native.pages import TiledPages
from penstock.engine.kv import KVPages
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.layer import Layer


class NativeStep:
    """What the layers of one step share: who attends which pages, and the rotary angles.

    With `cascade` a prefix that decodes share is read once for all of them.
    """

    def __init__(
        self,
        batch: StepBatch,
        page_size: int,
        frequencies: dict[int, Tensor],
        *,
        cascade: bool = True,
    ) -> None:
        self._library = library.library()
        self._batch = batch
        self._page_size = page_size
        self._cascade = cascade
        self._angles = {size: self._turns(each) for size, each in frequencies.items()}
        self._spans = np.array(
            [[s.start, s.end, s.context, s.table.data_ptr()] for s in batch.prefills], np.int64
        )
        self._tables = batch.decode_tables.contiguous()  # its rows follow one another
        self._native = library.Batch(
            decodes=batch.decodes,
            tables=self._tables.data_ptr(),
            width=self._tables.shape[1],
            contexts=batch.decode_contexts.data_ptr(),
            spans=len(batch.prefills),
            span=self._spans.ctypes.data,
        )
        self._plans: dict[tuple[int, int], tuple[Tensor, int, int]] = {}

    def attend(self, layer: Layer, y: Tensor, pages: KVPages) -> Tensor:
        """As `Step.attend`."""
        assert isinstance(pages, TiledPages)
        shape = layer.shape
        q = self._place(layer, y, pages, shape.heads, own=shape.fused)
        if self._batch.watched and not shape.deep:
            attention.watch(q.view(len(q), shape.heads, shape.head_dim), pages, self._batch)
        blocks, before, count = self._plan(shape.heads // shape.kv_heads, shape.window or 0)
        states = self._batch.decodes * shape.heads * (2 + shape.head_dim) if before else 0
        state = torch.empty(states, dtype=torch.float32)
        out = torch.empty_like(q)
        self._library.penstock_attend(
            q.data_ptr(),
            shape.heads,
            pages.address,
            blocks.data_ptr(),
            before,
            count,
            out.data_ptr(),
            state.data_ptr(),
        )
        return out

    def store(self, layer: Layer, kv: Tensor, pages: KVPages) -> None:
        """As `Step.store`."""
        assert isinstance(pages, TiledPages)
        self._place(layer, kv, pages, 0, own=True)

    def _place(
        self, layer: Layer, y: Tensor, pages: TiledPages, heads: int, *, own: bool
    ) -> Tensor:
        """Rotate what `y` has: `heads` queries of each row, which are returned, and K and V.

        Whether it has these, `own` says; they are stored.
        """
        rows, size, q_norm, k_norm = y.shape[0], layer.shape.head_dim, layer.q_norm, layer.k_norm
        q = torch.empty((rows, heads * size), dtype=torch.bfloat16)
        norm = q_norm or k_norm
        self._library.penstock_place(
            y.data_ptr(),
            rows,
            heads,
            own,
            None if q_norm is None else q_norm.fp32.data_ptr(),
            None if k_norm is None else k_norm.fp32.data_ptr(),
            0.0 if norm is None else norm.eps,
            self._angles[size].data_ptr(),
            self._batch.slots.data_ptr(),
            pages.address,
            q.data_ptr(),
        )
        return q

    def _turns(self, frequencies: Tensor) -> Tensor:
        rows, half = len(self._batch.positions), len(frequencies)
        to = torch.empty((rows, 2, half), dtype=torch.float32)
        self._library.penstock_angles(
            self._batch.positions.data_ptr(), rows, frequencies.data_ptr(), half, to.data_ptr()
        )
        return to

    def _plan(self, group: int, window: int) -> tuple[Tensor, int, int]:
        """Blocks for layers of one window and one number of heads on a KV head."""
        if (known := self._plans.get((group, window))) is not None:
            return known
        most = 2 * len(self._batch.tokens)
        blocks = torch.empty(most * self._library.penstock_block_bytes(), dtype=torch.uint8)
        room = torch.empty((2, max(1, self._batch.decodes)), dtype=torch.int64)
        before = ctypes.c_int64()
        count = self._library.penstock_plan(
            ctypes.addressof(self._native),
            self._page_size,
            group,
            window,
            self._cascade,
            room[0].data_ptr(),
            room[1].data_ptr(),
            blocks.data_ptr(),
            ctypes.addressof(before),
        )
        self._plans[group, window] = blocks, before.value, count
        return self._plans[group, window]
