"""Integers of a checkpoint in the layout of matmul.c, which says what a panel is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kernels.whole import Whole

PANEL = 32  # as in matmul.c
_STEP = 4  # inputs


def panels(whole: Whole, gated: bool) -> Tensor:
    """All panels, one after the other, as uint8: what `penstock_pack` would write."""
    step = 2 * _STEP if whole.bits == 4 else _STEP
    padded = F.pad(
        whole.whole, (0, -whole.whole.shape[1] % (whole.group if whole.bits == 4 else 64))
    )
    unsigned = (_by_panel(padded, gated).short() + (1 << whole.bits - 1)).byte()
    steps = unsigned.view(len(unsigned), PANEL, -1, step)  # [panels, 32, steps, inputs of a step]
    if whole.bits == 4:
        steps = steps[..., :_STEP] | steps[..., _STEP:] << 4
    laid: Tensor = steps.transpose(1, 2).flatten()
    return laid


def scales(whole: Whole, gated: bool) -> Tensor:
    """All scales: [groups, panels x 32], flat."""
    return _by_panel(whole.scale, gated).permute(2, 0, 1).flatten()


def _by_panel(rows: Tensor, gated: bool) -> Tensor:
    """Rows [outputs, n] as [panels, 32, n], zeros where there is no output.

    Gated, a panel is 16 gates and the 16 values they belong to.
    """
    parts = rows.chunk(2) if gated else (rows,)
    each = PANEL // len(parts)
    padded = [F.pad(part, (0, 0, 0, -len(part) % each)) for part in parts]
    return torch.cat([part.view(-1, each, part.shape[1]) for part in padded], 1)
