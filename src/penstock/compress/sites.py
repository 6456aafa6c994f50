"""A layer's matrices by what they read, and how to scale that without changing the layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.compress.checkpoint import Weights
from penstock.compress.forward import layer
from penstock.engine.model.config import LayerConfig, ModelConfig


@dataclass(frozen=True)
class Site:
    """Matrices that read the same inputs, and what those inputs come from.

    `source` is a norm or the matrix whose rows the inputs are; None where other layers
    read them too, so that they cannot be scaled.
    """

    name: str
    matrices: tuple[str, ...]
    source: str | None


SITES = (
    Site(
        "attention",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "input_layernorm",
    ),
    Site("output", ("self_attn.o_proj",), "self_attn.v_proj"),
    Site("ffn", ("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
    Site("down", ("mlp.down_proj",), "mlp.up_proj"),
)
MATRICES = tuple(matrix for site in SITES for matrix in site.matrices)
_DEEP = (
    Site("attention", ("self_attn.q_proj_swiftkv",), "input_layernorm"),
    Site("shared", ("self_attn.k_proj_swiftkv", "self_attn.v_proj_swiftkv"), None),
    Site("output", ("self_attn.o_proj",), None),
    *SITES[2:],
)


def sites(shape: LayerConfig) -> tuple[Site, ...]:
    """The sites of a layer, deep ones included."""
    if not shape.deep:
        return SITES
    return tuple(site for site in _DEEP if site.name != "shared" or shape.shares_kv is None)


@dataclass
class Seen:
    """What was seen at a site over the calibration rows.

    `gram` [inputs, inputs] is the mean of x x^T; `size` [inputs] the mean of |x|.
    """

    gram: Tensor
    size: Tensor

    def scaled(self, by: Tensor) -> Seen:
        """The same, had the inputs been divided by `by`."""
        return Seen(self.gram / by / by[:, None], self.size / by)


def see(
    config: ModelConfig,
    weights: Weights,
    index: int,
    x: Tensor,
    *,
    source: Tensor | None = None,
    batch: int = 4,
) -> tuple[dict[str, Seen], Tensor]:
    """Take `x` [rows, length, hidden] through a layer; what its sites saw, and what came out.

    `source` is that of `forward.layer`.
    """
    seen: dict[str, Seen] = {}
    tokens = x.shape[0] * x.shape[1]

    def tap(site: str, inputs: Tensor) -> None:
        flat = inputs.flatten(0, 1)
        gram, size = flat.T @ flat / tokens, flat.abs().sum(0) / tokens
        if site in seen:
            seen[site].gram += gram
            seen[site].size += size
        else:
            seen[site] = Seen(gram, size)

    out = []
    with torch.no_grad():
        for at in range(0, len(x), batch):
            some = slice(at, at + batch)
            of = None if source is None else source[some]
            out.append(layer(config, weights, index, x[some], tap, source=of))
    return seen, torch.cat(out)


def absorb(
    weights: Weights, shape: LayerConfig, site: Site, by: Tensor, dtype: torch.dtype
) -> Tensor:
    """Divide a site's inputs by `by` [inputs] and multiply its columns: the layer stays the same.

    `weights` are a layer's in fp32, changed in place. Returns what the inputs were
    really divided by: a norm is rounded to `dtype`, in which it will be stored, and
    the columns take up the difference. At `output`, the heads that share a V share
    their scales too. The site must have a source.
    """
    assert site.source is not None
    if site.name in ("attention", "ffn"):
        norm = weights[f"{site.source}.weight"]
        kept = (norm / by).to(dtype).float()
        by = torch.where(kept == 0, torch.ones_like(by), norm / kept)
        weights[f"{site.source}.weight"] = torch.where(kept == 0, norm, kept)
    elif site.name == "output":
        by = over_shared_heads(by, shape)
        one = by.view(shape.kv_heads, -1, shape.head_dim)[:, 0].flatten()
        _divide_rows(weights, site.source, one)
    else:
        _divide_rows(weights, site.source, by)
    for matrix in site.matrices:
        weights[f"{matrix}.weight"] = weights[f"{matrix}.weight"] * by
    return by


def over_shared_heads(values: Tensor, shape: LayerConfig) -> Tensor:
    """Values [heads * head_dim] averaged over the heads that read one KV head."""
    by_head = values.view(shape.kv_heads, -1, shape.head_dim)
    return by_head.mean(1, keepdim=True).expand_as(by_head).flatten()


def _divide_rows(weights: Weights, matrix: str, by: Tensor) -> None:
    weights[f"{matrix}.weight"] = weights[f"{matrix}.weight"] / by[:, None]
    if f"{matrix}.bias" in weights:
        weights[f"{matrix}.bias"] = weights[f"{matrix}.bias"] / by
