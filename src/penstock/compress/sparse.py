"""Single weights set to zero: smaller nowhere and faster nowhere here, kept to compare with.

A kernel that reads weights as they lie multiplies zeros like anything else. To gain,
their places would have to be stored (two bits a kept weight at 2:4, which only
some GPUs' units read) or skipped, which costs more than it saves until nearly all
are zero. So the checkpoint that comes out has the size and the speed of its original.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Made
from penstock.compress.forward import embed, layer
from penstock.compress.sites import SITES, see

Pattern = Literal["free", "2:4"]


class Sparsify(msgspec.Struct, frozen=True, kw_only=True, tag="sparsify"):
    """Which share of each output's weights is set to zero; at 2:4 two of each four."""

    share: float = 0.5
    pattern: Pattern = "free"

    @property
    def title(self) -> str:
        """In a few words."""
        where = "two of each four" if self.pattern == "2:4" else f"{self.share:.0%}"
        return f"{where} of the weights set to zero"


def sparsify(checkpoint: Checkpoint, how: Sparsify, desk: Desk) -> Made:
    """Set to zero, by Wanda, the weights of every layer whose product is least.

    Raises `ValueError` for a share that cannot be, or that 2:4 does not have.
    """
    if not 0 < how.share < 1:
        raise ValueError(f"zeros={how.share:g} must lie between 0 and 1: the share set to zero.")
    if how.pattern == "2:4" and how.share != 0.5:
        raise ValueError(
            f"zeros={how.share:g} must be 0.5 with pattern=2:4, two of each four; leave the "
            "pattern out for another share."
        )
    config, weights = checkpoint.shape, checkpoint.floats()
    x = embed(weights, desk.rows[:, :-1])
    zeros: list[dict[str, Any]] = []
    for index in range(len(config.layers)):
        desk.progress(how.title, index + 1, len(config.layers))
        seen, _ = see(config, weights, index, x)
        count = total = 0
        for site in SITES:
            for matrix in site.matrices:
                name = f"model.layers.{index}.{matrix}.weight"
                kept = wanda(weights[name], seen[site.name].gram.diagonal().sqrt(), how)
                weights[name] = weights[name] * kept
                count, total = count + int((~kept).sum()), total + kept.numel()
        zeros.append({"layer": index, "zeros": count / total})
        with torch.no_grad():
            x = torch.cat([layer(config, weights, index, part) for part in torch.split(x, 4)])
    return Made(checkpoint.having(weights), {"share of zeros in each layer": zeros})


def wanda(weight: Tensor, size: Tensor, how: Sparsify) -> Tensor:
    """Which weights [outputs, inputs] stay, by |w| times the root mean square of its input.

    The least of each output go, or the lesser two of each four neighbours (Sun et al. 2024).
    """
    worth = weight.abs() * size
    if how.pattern == "2:4":
        fours = worth.view(len(worth), -1, 4)
        gone = fours.argsort(-1)[..., :2]
        return torch.ones_like(fours, dtype=torch.bool).scatter_(-1, gone, False).flatten(1)
    gone = worth.argsort(-1)[:, : round(how.share * weight.shape[1])]
    return torch.ones_like(weight, dtype=torch.bool).scatter_(-1, gone, False)
