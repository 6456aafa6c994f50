"""Prompts that stop half way: from layer n on, all K and V are made of what comes out of n layers.

SwiftKV (Qiao et al. 2024, arXiv 2410.03960). A deep layer i >= n of the result computes

    K_i = RoPE(W'k_i h), V_i = W'v_i h    h = norm(x_n), x_n the stream behind n layers
    Q_i = RoPE(W'q_i norm_i(x_i))         x_i the stream that comes into layer i

for every token, so that K and V need nothing deeper than x_n, and a prompt token whose
logits nobody wants is done there.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

from penstock.compress import forward
from penstock.compress.checkpoint import Checkpoint, Weights
from penstock.compress.desk import Desk, Made
from penstock.engine.model.config import SWIFTKV, ModelConfig

ROWS = 8  # of the calibration text, on which is seen how far K and V are from what they were
OWN = ("q", "k", "v")  # what a deep layer has anew, and what a light distillation trains


class SwiftKV(msgspec.Struct, frozen=True, kw_only=True, tag="swiftkv"):
    """How many layers every token goes through, or below 1 which share of them.

    Of the deep layers `group` neighbours share the K and V of their first (AcrossKV).
    """

    full: float
    group: int = 1

    @property
    def title(self) -> str:
        """In a few words."""
        full = f"{self.full:.0%} of the layers" if self.full < 1 else f"{self.full:g} layers"
        shared = f", {self.group} neighbours sharing theirs" if self.group > 1 else ""
        return f"SwiftKV: behind {full} all K and V are made of one input{shared}"

    def layers(self, count: int) -> int:
        """How many of `count` layers every token goes through.

        Raises `ValueError` where that is none, all, or no whole number.
        """
        full = round(self.full * count) if 0 < self.full < 1 else self.full
        if not 0 < full < count or full != int(full):  # in this order: infinity is no int
            raise ValueError(
                f"swiftkv={self.full:g} must be a number of layers from 1 to {count - 1}, or a "
                f"share of the {count} below 1."
            )
        return int(full)


def swiftkv(checkpoint: Checkpoint, how: SwiftKV, desk: Desk) -> Made:
    """Make the deep layers' W' of their own weights.

    W'k_i = Wk_i diag(w_i / w), with w_i the weight of layer i's norm and w, that of the
    norm that all share, the largest of them: then K_i is what layer i makes of x_n,
    exactly, and what some norm holds down in x_n is held down. Layers that share K and V
    have the mean of theirs. Queries stay as they were. Raises `ValueError` for a SwiftKV
    model, and for a number of layers or a group that cannot be.
    """
    shape = checkpoint.shape
    full = how.layers(len(shape.layers))
    if shape.full_layers < len(shape.layers):
        raise ValueError(f"{checkpoint.source} is a SwiftKV model already.")
    if how.group < 1:
        raise ValueError(f"swiftkv_group={how.group} must be at least 1.")
    alike = {(layer.kv_heads, layer.head_dim) for layer in shape.layers[full:]}
    if how.group > 1 and len(alike) > 1:
        raise ValueError("layers of different KV heads cannot share: leave --swiftkv-group out.")
    weights = checkpoint.floats()
    apart = apartness(shape, weights, full, desk.rows[:ROWS, :-1], desk)
    tensors = dict(checkpoint.tensors)
    deep = range(full, len(shape.layers))
    norms = [weights[f"model.layers.{index}.input_layernorm.weight"] for index in deep]
    norm = torch.stack(norms).abs().amax(0).to(checkpoint.dtype)
    tensors["model.norm_swiftkv.weight"] = norm
    for first in range(full, len(shape.layers), how.group):
        group = range(first, min(first + how.group, len(shape.layers)))
        tensors |= _shared(weights, norm.float(), group)
        for index in group:
            for name in [name for name in tensors if _old(name, index)]:
                old = tensors.pop(name)
                if ".q_proj." in name:
                    tensors[name.replace("q_proj", "q_proj_swiftkv")] = old
            if index > first:
                tensors.pop(f"model.layers.{index}.self_attn.k_norm.weight", None)
    made = checkpoint.having(tensors, **_config(checkpoint, full, how.group))
    return Made(made, {"K and V made of the one input": apart})


def light(name: str) -> bool:
    """Whether a light distillation trains the tensor of this name."""
    return "_proj_swiftkv." in name


def apartness(
    config: ModelConfig, weights: Weights, full: int, tokens: Tensor, desk: Desk
) -> list[dict[str, Any]]:
    """How far each layer's K and V move when it makes them of x_n: |new - old| / |old|."""
    found = []
    with torch.no_grad():
        x = forward.embed(weights, tokens)
        source = x
        for index in range(len(config.layers)):
            desk.progress("K and V of the deep layers", index + 1, len(config.layers))
            if index == full:
                source = x
            if index >= full:
                old, new = (
                    torch.cat(forward.keys_values(config, weights, index, each))
                    for each in (x, source)
                )
                far = (new - old).norm() / old.norm()
                found.append({"layer": index, "apart": float(far)})
            x = forward.layer(config, weights, index, x)
    return found


def _shared(weights: Weights, norm: Tensor, group: range) -> Weights:
    """W'k and W'v of a group behind `norm`, and their biases if there are any."""
    made = {}
    for name in ("k", "v"):
        own = [f"model.layers.{index}.self_attn.{name}_proj" for index in group]
        norms = [weights[f"model.layers.{index}.input_layernorm.weight"] for index in group]
        wide = [
            weights[f"{key}.weight"] * (each / norm).nan_to_num_(0)  # 0 / 0 where all are 0
            for key, each in zip(own, norms, strict=True)
        ]
        made[f"{own[0]}_swiftkv.weight"] = torch.stack(wide).mean(0)
        if f"{own[0]}.bias" in weights:
            bias = torch.stack([weights[f"{key}.bias"] for key in own]).mean(0)
            made[f"{own[0]}_swiftkv.bias"] = bias
    return made


def _old(name: str, index: int) -> bool:
    return name.startswith(tuple(f"model.layers.{index}.self_attn.{own}_proj." for own in OWN))


def _config(checkpoint: Checkpoint, full: int, group: int) -> dict[str, Any]:
    """The entries of `config.json` that tell of it: those of Snowflake's checkpoints."""
    (named,) = checkpoint.config["architectures"]
    family = checkpoint.config.get("model_type", checkpoint.shape.architecture)
    return {
        "architectures": [named.replace("ForCausalLM", f"{SWIFTKV}ForCausalLM")],
        "model_type": f"{family}_swiftkv",
        "swiftkv": True,
        "num_key_value_layers": full,
        "key_value_group_size": group,
    }
