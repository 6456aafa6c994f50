"""Matrices rounded to integers: to the nearest, by GPTQ, and with clipping as in AWQ.

All three choose scales on the same grid, the engine's own, and round them to the
precision they are stored in before an integer is chosen. What each loses is
judged by E|(W - W')x|^2 = tr(D G D^T), D the change of the weights and G = E[x x^T].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.engine.kernels.quantized import candidates, rounded, scales
from penstock.engine.kernels.whole import Whole

_BLOCK = 128  # columns between two updates of all that follow; a matter of speed
DAMPING = 0.01  # of the mean of G's diagonal, added to it (Frantar et al. 2023)
_STEPS = 20  # of AWQ's grid


@dataclass(frozen=True)
class Grid:
    """Integers of so many bits; each `group` of inputs has a scale, stored in `dtype`."""

    bits: int
    group: int
    dtype: torch.dtype

    def scales(self, groups: Tensor) -> Tensor:
        """As the engine chooses them, as they are stored: [..., group] to [..., 1]."""
        return self.stored(scales(groups, self.bits))

    def stored(self, scale: Tensor) -> Tensor:
        """A scale after it was on disk."""
        return scale.to(self.dtype).float()

    def whole(self, groups: Tensor, scale: Tensor) -> Whole:
        """Weights [outputs, groups, group] rounded to these scales [outputs, groups, 1]."""
        integers = rounded(groups, scale, self.bits).flatten(1)
        return Whole(integers, scale[..., 0].contiguous(), self.bits)


def nearest(weight: Tensor, grid: Grid) -> Whole:
    """Round `weight` fp32 [outputs, inputs] to nearest."""
    groups = weight.reshape(len(weight), -1, grid.group)
    return grid.whole(groups, grid.scales(groups))


def clipped(weight: Tensor, gram: Tensor, grid: Grid) -> Whole:
    """Round to nearest, each group's scale the one of eight that loses least in the product.

    The clip search of AWQ (Lin et al. 2024), each group judged alone.
    """
    if grid.bits == 8:
        return nearest(weight, grid)
    groups = weight.reshape(len(weight), -1, grid.group)  # [outputs, groups, group]
    own = _blocks(gram, grid.group)
    tried = grid.stored(candidates(groups))
    errors = torch.stack(
        [
            _quadratic(groups - scale * rounded(groups, scale, grid.bits), own)[..., None]
            for scale in tried
        ]
    )
    return grid.whole(groups, tried.gather(0, errors.argmin(0, keepdim=True))[0])


def gptq(weight: Tensor, gram: Tensor, grid: Grid, *, act_order: bool) -> Whole:
    """Round column by column, what follows making up for each error (Frantar et al. 2023).

    With H = G + damping and U the upper Cholesky factor of its inverse, column j
    leaves e = (w_j - q_j) / U_jj, and the columns after it lose e U_j. `act_order` takes
    columns in the order of the sizes of their inputs; the scales are then those of
    the weights as they were, so that a group still is a run of neighbours.
    """
    (outputs, inputs), group = weight.shape, grid.group
    order = torch.arange(inputs)
    if act_order:
        order = gram.diagonal().argsort(descending=True)
    work = weight[:, order].clone()
    upper = _inverse_root(gram[order][:, order])
    scale = grid.scales(weight.reshape(outputs, -1, group))[..., 0]
    whole = torch.empty(outputs, inputs, dtype=torch.int8)
    block = min(group, _BLOCK)
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        if not act_order and group < inputs and start % group == 0:
            own = work[:, None, start : start + group]
            scale[:, start // group] = grid.scales(own)[:, 0, 0]
        errors = torch.empty(outputs, end - start)
        for j in range(start, end):
            column, by = work[:, j], scale[:, int(order[j]) // group]
            whole[:, j] = rounded(column, by, grid.bits)
            error = (column - whole[:, j] * by) / upper[j, j]
            work[:, j + 1 : end].addr_(error, upper[j, j + 1 : end], alpha=-1)
            errors[:, j - start] = error
        work[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(inputs)
    return Whole(whole[:, back].contiguous(), scale.contiguous(), grid.bits)


def awq_scale(weight: Tensor, gram: Tensor, size: Tensor, grid: Grid) -> Tensor:
    """By how much to multiply each column before rounding, and to divide its input: [inputs].

    `size` is the mean of |x|. s = size^a, centred; of twenty a from 0 to below 1 the one
    with the least loss in the product (Lin et al. 2024). At a = 0 nothing is scaled.
    """
    best, least = torch.ones_like(size), float("inf")
    for step in range(_STEPS):
        by = size.clamp(min=1e-4) ** (step / _STEPS)
        by = by / (by.max() * by.min()).sqrt()
        back = nearest(weight * by, grid).floats() / by
        lost = loss(weight - back, gram)
        if lost < least:
            best, least = by, lost
    return best


def loss(change: Tensor, gram: Tensor) -> float:
    """E|D x|^2 of a change D [outputs, inputs] of the weights: tr(D G D^T)."""
    return float(((change @ gram) * change).sum())


def _inverse_root(gram: Tensor) -> Tensor:
    """The upper triangular U with U^T U = (G + damping)^-1."""
    diagonal = gram.diagonal()
    silent = diagonal == 0  # inputs that are always 0: any weight will do
    damped = gram + torch.diag(DAMPING * diagonal.mean() + silent.float())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped.double()))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return upper


def _blocks(gram: Tensor, group: int) -> Tensor:
    """The blocks along the diagonal: [groups, group, group]."""
    count = len(gram) // group
    return gram.view(count, group, count, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _quadratic(change: Tensor, blocks: Tensor) -> Tensor:
    """What `loss` says of each group alone: [outputs, groups]."""
    return (torch.einsum("ogi,gij->ogj", change, blocks) * change).sum(-1)
