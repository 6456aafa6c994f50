"""From logits to the next token.

Randomness is Gumbel-max: argmax(logits / temperature + g) with g = -log(-log u)
is a draw from softmax(logits / temperature) (Gumbel 1954; Maddison et al.
2014). Each u is a hash of (seed, choice, position, token id), so a draw depends
on nothing else: not on the batch, a preemption, or what was drawn before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Tokens of logits [L, vocab], temperatures and keys [L]: see `draw_plainly`.
Draw = Callable[[Tensor, NDArray[np.float32], NDArray[np.int64]], Tensor]

# Tokens among which top-k and top-p are looked for first.
HEAD = 256


@dataclass(slots=True)
class SamplingRows:
    """Sampling parameters of the rows of one step, each of shape [L]."""

    temperature: NDArray[np.float32]  # 0: greedy
    top_k: NDArray[np.int64]  # 0: off
    top_p: NDArray[np.float32]  # 1: off
    min_p: NDArray[np.float32]  # 0: off
    seed: NDArray[np.int64]  # of the choice: see `choice_seed`
    position: NDArray[np.int64]  # index of the token to be drawn

    def take(self, rows: NDArray[np.int64]) -> SamplingRows:
        """The parameters of some of the rows."""
        return SamplingRows(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


def sample(logits: Tensor, rows: SamplingRows, draw: Draw | None = None) -> Tensor:
    """Choose a token for each row of fp32 `logits` [L, vocab]; returns int64 [L].

    Filters apply as in the field: temperature, then top-k, then top-p over
    what top-k left; min-p is a share of the likeliest token's probability
    (Nguyen et al. 2024). Ties go to the lowest token id. Rows with filters are
    overwritten. `draw` is a faster `draw_plainly`, if there is one.
    """
    temperature = rows.temperature
    warm = temperature > 0
    cut = warm & ((rows.top_k > 0) | (rows.top_p < 1))
    filtered = np.flatnonzero(cut | (warm & (rows.min_p > 0)))
    if len(filtered):
        which = torch.from_numpy(filtered).to(logits.device)
        scaled = logits[which] / _column(temperature[filtered], logits)
        top_k, top_p, min_p = (
            _column(values[filtered], logits) for values in (rows.top_k, rows.top_p, rows.min_p)
        )
        if cut.any():
            some = torch.from_numpy(np.flatnonzero(cut[filtered])).to(logits.device)
            scaled[some] = _filtered(scaled[some], top_k[some], top_p[some])
        floor = scaled.max(-1, keepdim=True).values + min_p.log()
        logits[which] = scaled.masked_fill_(scaled < floor, float("-inf"))
        temperature = temperature.copy()
        temperature[filtered] = 1
    return (draw or draw_plainly)(logits, temperature, keys(rows.seed, rows.position))


def draw_plainly(
    logits: Tensor, temperature: NDArray[np.float32], keys: NDArray[np.int64]
) -> Tensor:
    """The likeliest token of each row of `logits`, or where it has a temperature, a draw."""
    tokens = logits.argmax(-1)
    drawn = np.flatnonzero(temperature > 0)
    if len(drawn):
        index = torch.from_numpy(drawn).to(logits.device)
        noisy = logits[index] / _column(temperature[drawn], logits)
        noisy += gumbel(_column(keys[drawn], logits), logits.shape[-1])
        tokens[index] = noisy.argmax(-1)
    return tokens


def _column(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)[:, None]


def _filtered(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Rows with -inf for what top-k and top-p exclude; the likeliest token always stays.

    Nearly always the likeliest `HEAD` tokens hold the answer, and to find them is
    far cheaper than to sort a vocabulary. A row where they may not is sorted whole;
    that depends on the row alone, as everything here must.
    """
    if scaled.shape[-1] <= HEAD:
        return _keep(scaled, *scaled.sort(dim=-1, descending=True, stable=True), top_k, top_p)[0]
    # In order of likelihood, and of equal ones by id: `topk` promises neither.
    order = scaled.topk(HEAD, sorted=False).indices.sort(dim=-1).values
    ordered, by_value = scaled.gather(1, order).sort(dim=-1, descending=True, stable=True)
    out, least = _keep(scaled, ordered, order.gather(1, by_value), top_k, top_p)
    open_ = ((least <= ordered[:, -1]) | (top_k[:, 0] > HEAD)).nonzero()[:, 0]
    if len(open_):
        rest = scaled[open_]
        whole = rest.sort(dim=-1, descending=True, stable=True)
        out[open_] = _keep(rest, *whole, top_k[open_], top_p[open_])[0]
    return out


def _keep(
    scaled: Tensor, ordered: Tensor, order: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Filter rows by their likeliest tokens, in order; returns also the least logit kept."""
    ranks = torch.arange(ordered.shape[-1], device=scaled.device)
    excluded = (ranks >= top_k) & (top_k > 0)
    left = ordered.masked_fill(excluded, float("-inf"))
    mass = torch.where(top_k > 0, left.logsumexp(-1, True), scaled.logsumexp(-1, True))
    probabilities = (left - mass).exp()
    # A token stays while the mass before it is below top_p (Holtzman et al. 2020).
    excluded |= (probabilities.cumsum(-1) - probabilities >= top_p) & (top_p < 1)
    excluded[:, 0] = False
    least = ordered.masked_fill(excluded, float("inf")).amin(-1)
    kept = ordered.masked_fill(excluded, float("-inf"))
    return torch.full_like(scaled, float("-inf")).scatter_(-1, order, kept), least


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of a request's choices; that of choice 0 is the request's own."""
    if choice == 0:
        return seed
    # Apart from the keys below, which step through the seed's own sequence.
    mixed = _splitmix(np.array([seed], np.int64), np.array([choice], np.int64), 0xD1B54A32D192ED03)
    return int(mixed[0])


def keys(seed: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
    """One 64-bit key for each (seed, position)."""
    return _splitmix(seed, position + 1, 0x9E3779B97F4A7C15)


def _splitmix(start: NDArray[np.int64], step: NDArray[np.int64], gamma: int) -> NDArray[np.int64]:
    """Output of splitmix64 (Steele et al. 2014) after `step` steps of `gamma` from `start`."""
    x = start.astype(np.uint64) + np.uint64(gamma) * step.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: NDArray[np.int64] = (x ^ (x >> np.uint64(31))).view(np.int64)
    return keys


def gumbel(keys: Tensor, vocabulary: int) -> Tensor:
    """Gumbel(0, 1) noise, fp32 [L, vocabulary], from `keys` int64 [L, 1]."""
    x = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    high, low = (keys >> 32).int(), keys.int()
    x = _mix(_mix(x[None] ^ high) ^ low)
    # The upper 31 bits make u in (0, 1); its logarithm is exact enough in fp32
    # at the end that matters, u near 0, where -log(-log u) turns to -log u.
    u = ((x >> 1) & 0x3FFFFFFF).float().add_(0.5).mul_(2.0**-30)
    # Flip so that fp32's fine grain near 0 serves the large values of g.
    return torch.log1p_(u.neg_()).neg_().log_().neg_()


def _mix(x: Tensor) -> Tensor:
    """Scramble int32 (Wellons' lowbias32); shifts are made logical by masking the sign."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= -0x7B935975  # 0x846CA68B as a signed number
    x ^= (x >> 16) & 0xFFFF
    return x
