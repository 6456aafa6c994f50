"""A checkpoint's layers in int8 or int4, in the format of compressed-tensors.

Embedding and head stay as they are: the engine keeps its head in int8 beside
quantized layers, and makes that when it loads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from penstock.compress import rounding
from penstock.compress.checkpoint import Checkpoint, Weights
from penstock.compress.desk import Desk, Made
from penstock.compress.forward import embed, layer
from penstock.compress.sites import Seen, Site, absorb, over_shared_heads, see, sites
from penstock.engine.kernels.quantized import GROUP, balance
from penstock.engine.kernels.whole import PACKED, SCALE, SHAPE, Whole, packed, unpacked
from penstock.engine.model.config import LayerConfig

Method = Literal["rtn", "gptq", "awq"]
SCALES = torch.bfloat16  # what scales are stored in


class Quantize(msgspec.Struct, frozen=True, kw_only=True, tag="quantize"):
    """Into which format, and by which method; `group` is of int4, int8 has a scale an output."""

    bits: Literal[4, 8] = 4
    method: Method = "gptq"
    group: int = GROUP
    act_order: bool = False  # GPTQ: large inputs first

    @property
    def title(self) -> str:
        """In a few words."""
        group = f" in groups of {self.group}" if self.bits == 4 else ""
        return f"int{self.bits}{group} by {self.method.upper()}"

    def grid(self, weight: Tensor) -> rounding.Grid:
        """What a matrix [outputs, inputs] is rounded to."""
        return rounding.Grid(self.bits, self.group if self.bits == 4 else weight.shape[1], SCALES)

    @property
    def public(self) -> dict[str, Any]:
        """The entry `quantization_config` of a checkpoint."""
        weights: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if self.bits == 4 else "channel",
            "group_size": self.group if self.bits == 4 else None,
            "dynamic": False,
            "actorder": None,
            "block_structure": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }


def quantize(checkpoint: Checkpoint, how: Quantize, desk: Desk) -> Made:
    """Round the matrices of every layer, in order, each on what the rounded ones before it give.

    A layer is kept once it is done. Raises `ValueError` for a group that does not
    divide the inputs of a matrix.
    """
    config = checkpoint.shape
    if how.bits == 4:
        _check_groups(checkpoint, how.group)
    weights, tensors = checkpoint.floats(), dict(checkpoint.tensors)
    x = source = embed(weights, desk.rows[:, :-1])
    errors = []
    for index in range(len(config.layers)):
        desk.progress(how.title, index, len(config.layers))
        prefix = f"model.layers.{index}."
        if index == config.full_layers:
            source = x
        seen, exact = see(config, weights, index, x, source=source)
        part = desk.work.once(
            f"quantize-{index:03}",
            lambda index=index, seen=seen: _layer(  # type: ignore[misc]
                checkpoint.layer(index), config.layers[index], seen, how, checkpoint.dtype
            ),
        )
        for name in checkpoint.layer(index):
            del tensors[prefix + name]
        tensors |= {prefix + name: tensor for name, tensor in part.items()}
        weights |= {prefix + name: tensor for name, tensor in floats(part, how.bits).items()}
        with torch.no_grad():
            after = torch.cat(
                [
                    layer(config, weights, index, rows, source=of)
                    for rows, of in zip(torch.split(x, 4), torch.split(source, 4), strict=True)
                ]
            )
        errors.append({"layer": index, "error": _relative(after - exact, exact - x)})
        x = after
    desk.progress(how.title, len(config.layers), len(config.layers))
    public = {**checkpoint.config, "quantization_config": how.public}
    made = replace(checkpoint, config=public, tensors=tensors)
    return Made(made, {"error of each layer's output": errors})


def floats(tensors: Weights, bits: int) -> Weights:
    """The weights in fp32 that a quantized layer's tensors mean, by the names of plain ones."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(PACKED):
            matrix = name.removesuffix(PACKED)
            inputs = int(tensors[matrix + SHAPE][1])
            whole = Whole(unpacked(tensor, bits, inputs), tensors[matrix + SCALE].float(), bits)
            out[f"{matrix}.weight"] = whole.floats()
        elif not name.endswith((SCALE, SHAPE)):
            out[name] = tensor.float()
    return out


def _layer(
    tensors: Weights, shape: LayerConfig, seen: dict[str, Seen], how: Quantize, dtype: torch.dtype
) -> Weights:
    """One layer's tensors as they are stored."""
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    # What scales rows comes before these are rounded themselves, so the last site first.
    for site in reversed(sites(shape)):
        by = _scaling(site, weights, shape, seen[site.name], how)
        if by is not None:
            by = absorb(weights, shape, site, by, dtype)
            seen[site.name] = seen[site.name].scaled(by)
    stored: Weights = {}
    for site in sites(shape):
        stacked = torch.cat([weights.pop(f"{matrix}.weight") for matrix in site.matrices])
        whole = _round(stacked, seen[site.name], how)
        sizes = [len(tensors[f"{matrix}.weight"]) for matrix in site.matrices]
        parts = zip(torch.split(whole.whole, sizes), torch.split(whole.scale, sizes), strict=True)
        for matrix, (integers, scale) in zip(site.matrices, parts, strict=True):
            stored[matrix + PACKED] = packed(integers, how.bits)
            stored[matrix + SCALE] = scale.to(SCALES)
            stored[matrix + SHAPE] = torch.tensor(integers.shape)
    return stored | {name: tensor.to(dtype) for name, tensor in weights.items()}


def _scaling(
    site: Site, weights: Weights, shape: LayerConfig, seen: Seen, how: Quantize
) -> Tensor | None:
    """By how much to divide a site's inputs, if at all.

    Every method balances norm and matrices as the engine does when it quantizes;
    AWQ goes on from there.
    """
    if site.source is None:
        return None
    stacked = torch.cat([weights[f"{matrix}.weight"] for matrix in site.matrices])
    by = None
    if site.name in ("attention", "ffn"):
        by = balance(stacked.abs().amax(0), weights[f"{site.source}.weight"])
        stacked, seen = stacked * by, seen.scaled(by)
    if how.method == "awq":
        size = over_shared_heads(seen.size, shape) if site.name == "output" else seen.size
        more = rounding.awq_scale(stacked, seen.gram, size, how.grid(stacked))
        by = more if by is None else by * more
    return by


def _round(weight: Tensor, seen: Seen, how: Quantize) -> Whole:
    grid = how.grid(weight)
    if how.method == "gptq":
        return rounding.gptq(weight, seen.gram, grid, act_order=how.act_order)
    if how.method == "awq":
        return rounding.clipped(weight, seen.gram, grid)
    return rounding.nearest(weight, grid)


def _check_groups(checkpoint: Checkpoint, group: int) -> None:
    for index in range(len(checkpoint.shape.layers)):
        for name, tensor in checkpoint.layer(index).items():
            if tensor.ndim == 2 and tensor.shape[1] % group:
                raise ValueError(
                    f"group={group} does not divide the {tensor.shape[1]} inputs of "
                    f"model.layers.{index}.{name}; choose one that does, such as 64 or 32."
                )


def _relative(change: Tensor, of: Tensor) -> float:
    """Root of the summed squares of `change` over those of `of`."""
    return float(change.norm() / of.norm())
