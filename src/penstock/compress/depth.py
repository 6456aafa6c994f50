"""Whole layers taken out: fewer bytes and fewer steps one after the other."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.compress import forward
from penstock.compress.checkpoint import Checkpoint, Weights
from penstock.compress.desk import Desk, Made
from penstock.engine.model.config import ModelConfig

Order = Literal["influence", "loss", "random"]


class Depth(msgspec.Struct, frozen=True, kw_only=True, tag="depth"):
    """How many layers go, and which: see the functions of this module."""

    layers: int
    order: Order = "loss"
    seed: int = 0  # of a random order

    @property
    def title(self) -> str:
        """In a few words."""
        by = {
            "influence": "with the least influence",
            "loss": "missed least, one after the other",
            "random": f"at random, seed {self.seed}",
        }
        count = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{count} taken out, {by[self.order]}"


def prune_depth(checkpoint: Checkpoint, how: Depth, desk: Desk) -> Made:
    """Take layers out. What is left is a plain model of fewer layers.

    Raises `ValueError` for as many layers as there are, or none.
    """
    count = len(checkpoint.shape.layers)
    if not 0 < how.layers < count:
        raise ValueError(f"layers={how.layers} must lie between 1 and {count - 1}.")
    details: dict[str, list[dict[str, Any]]] = {}
    if how.order == "influence":
        felt = influence(checkpoint.shape, checkpoint.floats(), desk)
        ranked = sorted(range(count), key=felt.__getitem__)
        gone = set(ranked[: how.layers])
        details["influence of each layer"] = [
            {"layer": index, "influence": value} for index, value in enumerate(felt)
        ]
    elif how.order == "loss":
        steps = one_by_one(checkpoint.shape, checkpoint.floats(), how.layers, desk)
        gone = {step["layer"] for step in steps}
        details["loss as layers go"] = steps
    else:
        gone = set(Random(how.seed).sample(range(count), how.layers))
    details["layers taken out"] = [{"layer": index} for index in sorted(gone)]
    return Made(without(checkpoint, gone), details)


def influence(config: ModelConfig, weights: Weights, desk: Desk) -> list[float]:
    """Block influence of each layer: 1 - E[cos(x, layer(x))] over tokens (Men et al. 2024)."""
    x = forward.embed(weights, desk.rows[:, :-1])
    felt = []
    for index in range(len(config.layers)):
        desk.progress("influence of layers", index + 1, len(config.layers))
        after = _through(config, weights, index, x)
        felt.append(1 - float(F.cosine_similarity(x, after, dim=-1).mean()))
        x = after
    return felt


def one_by_one(
    config: ModelConfig, weights: Weights, count: int, desk: Desk
) -> list[dict[str, Any]]:
    """Take out, `count` times, the layer without which the loss is least (Kim et al. 2024).

    Each row: the layer, and the loss of the calibration rows without it and those before.
    """
    left = list(range(len(config.layers)))
    tries = sum(len(left) - i for i in range(count))
    steps: list[dict[str, Any]] = []
    tried = 0
    for _ in range(count):
        best: tuple[float, int] | None = None
        before = forward.embed(weights, desk.rows[:, :-1])  # what comes into each candidate
        for at, index in enumerate(left):
            x = before
            for later in left[at + 1 :]:
                x = _through(config, weights, later, x)
            found = (_loss(config, weights, x, desk.rows[:, 1:]), index)
            best = found if best is None else min(best, found)
            before = _through(config, weights, index, before)
            tried += 1
            desk.progress("loss without each layer", tried, tries)
        assert best is not None
        steps.append({"layer": best[1], "loss": best[0]})
        left.remove(best[1])
    return steps


def without(checkpoint: Checkpoint, gone: set[int]) -> Checkpoint:
    """The model without these layers, the others numbered anew."""
    kept = [index for index in range(len(checkpoint.shape.layers)) if index not in gone]
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("model.layers.")
    }
    for new, old in enumerate(kept):
        tensors |= {f"model.layers.{new}.{name}": t for name, t in checkpoint.layer(old).items()}
    config: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name in ("layer_types", "penstock_layers"):
        if (each := checkpoint.config.get(name)) is not None:
            config[name] = [each[index] for index in kept]
    if (full := checkpoint.config.get("max_window_layers")) is not None:
        config["max_window_layers"] = sum(index < full for index in kept)
    return checkpoint.having(tensors, **config)


def _through(config: ModelConfig, weights: Weights, index: int, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat(
            [forward.layer(config, weights, index, part) for part in torch.split(x, 4)]
        )


def _loss(config: ModelConfig, weights: Weights, x: Tensor, targets: Tensor) -> float:
    total = 0.0
    with torch.no_grad():
        for part, wanted in zip(torch.split(x, 4), torch.split(targets, 4), strict=True):
            said = forward.logits(config, weights, part).flatten(0, 1)
            total += float(F.cross_entropy(said, wanted.flatten(), reduction="sum"))
    return total / targets.numel()
