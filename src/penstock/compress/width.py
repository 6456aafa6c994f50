"""Narrower layers: feed-forward neurons and heads taken out, those of a KV head together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.compress import forward
from penstock.compress.checkpoint import Checkpoint, Weights
from penstock.compress.desk import Desk, Made
from penstock.compress.sites import see
from penstock.engine.model.config import LAYERS, LayerConfig, ModelConfig

NEURONS = 64  # a layer keeps a multiple of so many: kernels work in panels
Importance = Literal["activation", "taylor"]
_HEADS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Width(msgspec.Struct, frozen=True, kw_only=True, tag="width"):
    """Which share of neurons and of KV heads (with their query heads) is kept.

    `uneven`: layers keep as much as they need, ranked together, instead of all the same.
    """

    neurons: float = 1.0
    heads: float = 1.0
    importance: Importance = "activation"
    uneven: bool = False

    @property
    def title(self) -> str:
        """In a few words."""
        kept = [
            f"{share:.0%} of {name}"
            for name, share in (("neurons", self.neurons), ("heads", self.heads))
            if share < 1
        ]
        how = "uneven over the layers" if self.uneven else "the same in every layer"
        return f"{' and '.join(kept)} kept by {self.importance}, {how}"


def prune_width(checkpoint: Checkpoint, how: Width, desk: Desk) -> Made:
    """Take neurons and heads out.

    Even widths leave a plain model; uneven ones are told by the config's `LAYERS`,
    which this engine reads and transformers does not. Raises `ValueError` for
    shares that keep nothing or everything.
    """
    for name, share in (("neurons", how.neurons), ("heads", how.heads)):
        if not 0 < share <= 1:
            raise ValueError(f"{name}={share} must lie above 0 and at most at 1: the share kept.")
    if how.neurons == how.heads == 1:
        raise ValueError("neurons=1 and heads=1 keep everything; lower one.")
    config = checkpoint.shape
    worth = IMPORTANCES[how.importance](config, checkpoint.floats(), desk)
    neurons = _kept([each["neurons"] for each in worth], how.neurons, NEURONS, how.uneven)
    heads = _kept([each["heads"] for each in worth], how.heads, 1, how.uneven)
    tensors = dict(checkpoint.tensors)
    shapes = []
    for index, shape in enumerate(config.layers):
        prefix = f"model.layers.{index}."
        for name, tensor in narrowed(
            checkpoint.layer(index), shape, neurons[index], heads[index]
        ).items():
            tensors[prefix + name] = tensor
        each = shape.heads // shape.kv_heads
        shapes.append(
            {
                "num_attention_heads": each * len(heads[index]),
                "num_key_value_heads": len(heads[index]),
                "intermediate_size": len(neurons[index]),
            }
        )
    return Made(
        checkpoint.having(tensors, head_dim=config.layers[0].head_dim, **_sizes(shapes)),
        {"width of each layer": [{"layer": index, **each} for index, each in enumerate(shapes)]},
    )


def activation(config: ModelConfig, weights: Weights, desk: Desk) -> list[dict[str, Tensor]]:
    """E|h_i| times the length of what h_i is multiplied by: how much each adds, by layer.

    Neurons [ffn] and KV heads [kv_heads], a head being the sum over its numbers and
    its query heads (after Muralidharan et al. 2024, who leave the length out).
    """
    x = forward.embed(weights, desk.rows[:, :-1])
    worth = []
    for index, shape in enumerate(config.layers):
        desk.progress("importance by activation", index + 1, len(config.layers))
        seen, x = see(config, weights, index, x)
        added = {
            site: seen[site].size * weights[f"model.layers.{index}.{matrix}.weight"].norm(dim=0)
            for site, matrix in (("down", "mlp.down_proj"), ("output", "self_attn.o_proj"))
        }
        worth.append(
            {"neurons": added["down"], "heads": added["output"].view(shape.kv_heads, -1).sum(1)}
        )
    return worth


def taylor(config: ModelConfig, weights: Weights, desk: Desk) -> list[dict[str, Tensor]]:
    """Sum of |w dL/dw| over all weights of a neuron or head, by layer (Ma et al. 2023)."""
    for name, tensor in weights.items():
        tensor.requires_grad_(name.startswith("model.layers.") and tensor.ndim == 2)
    parts = torch.split(desk.rows, 2)
    for done, part in enumerate(parts, 1):
        said = forward.forward(config, weights, part[:, :-1]).flatten(0, 1)
        torch.autograd.backward(F.cross_entropy(said, part[:, 1:].flatten()))
        desk.progress("importance by Taylor", done, len(parts))

    def felt(index: int, matrix: str, dim: int) -> Tensor:
        tensor = weights[f"model.layers.{index}.{matrix}.weight"]
        assert tensor.grad is not None
        return (tensor.detach() * tensor.grad).abs().sum(dim)

    return [
        {
            "neurons": felt(index, "mlp.gate_proj", 1)
            + felt(index, "mlp.up_proj", 1)
            + felt(index, "mlp.down_proj", 0),
            "heads": sum(
                (felt(index, name, 1).view(shape.kv_heads, -1).sum(1) for name in _HEADS),
                start=felt(index, "self_attn.o_proj", 0).view(shape.kv_heads, -1).sum(1),
            ),
        }
        for index, shape in enumerate(config.layers)
    ]


IMPORTANCES = {"activation": activation, "taylor": taylor}


def narrowed(
    tensors: Mapping[str, Tensor], shape: LayerConfig, neurons: Tensor, heads: Tensor
) -> Weights:
    """A layer's tensors with these neurons and KV heads (with their query heads) alone."""
    size = shape.head_dim

    def rows(heads: Tensor, each: int) -> Tensor:
        return (heads[:, None] * each + torch.arange(each)).flatten()

    kv, q = rows(heads, size), rows(heads, size * shape.heads // shape.kv_heads)
    of_rows = {"q_proj": q, "k_proj": kv, "v_proj": kv, "gate_proj": neurons, "up_proj": neurons}
    of_columns = {"o_proj": q, "down_proj": neurons}
    out = {}
    for name, tensor in tensors.items():
        matrix, _, kind = name.rpartition(".")
        matrix = matrix.rpartition(".")[2]
        if matrix in of_rows:
            tensor = tensor[of_rows[matrix]]
        elif matrix in of_columns and kind == "weight":
            tensor = tensor[:, of_columns[matrix]]
        out[name] = tensor.contiguous()
    return out


def _kept(worth: list[Tensor], share: float, multiple: int, uneven: bool) -> list[Tensor]:
    """Which of each layer stay, in their order: the most worth, `multiple` at a time."""
    counts = [max(multiple, round(share * len(each) / multiple) * multiple) for each in worth]
    if uneven and share < 1:
        counts = _counts_together(worth, sum(counts), multiple)
    return [
        each.topk(min(count, len(each))).indices.sort().values
        for each, count in zip(worth, counts, strict=True)
    ]


def _counts_together(worth: list[Tensor], total: int, multiple: int) -> list[int]:
    """How many of each layer are among the `total` of most worth, in steps of `multiple`.

    A step's worth is its sum over that of its layer: layers add to streams of
    different size. Every layer keeps a step.
    """
    steps = [
        (float(part.sum() / each.sum()), index)
        for index, each in enumerate(worth)
        for part in torch.split(each.sort(descending=True).values, multiple)[1:]
    ]
    counts = [multiple] * len(worth)
    for _, index in sorted(steps, reverse=True)[: total // multiple - len(worth)]:
        counts[index] += multiple
    return counts


def _sizes(shapes: list[dict[str, int]]) -> dict[str, Any]:
    """The config's entries: of all layers where they are alike, else of each."""
    if all(shape == shapes[0] for shape in shapes):
        return {**shapes[0]}
    return {LAYERS: shapes}
