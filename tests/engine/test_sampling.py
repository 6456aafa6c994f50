"""Draws follow the filtered softmax, and depend on seed and position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from penstock.engine.sampling import SamplingRows, _filtered, choice_seed, gumbel, sample

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def rows(count: int, **values: float) -> SamplingRows:
    given = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 5} | values
    return SamplingRows(
        temperature=np.full(count, given["temperature"], np.float32),
        top_k=np.full(count, given["top_k"], np.int64),
        top_p=np.full(count, given["top_p"], np.float32),
        min_p=np.full(count, given["min_p"], np.float32),
        seed=np.full(count, given["seed"], np.int64),
        position=np.arange(count, dtype=np.int64),
    )


def reference(temperature: float, top_k: int, top_p: float, min_p: float = 0.0) -> np.ndarray:
    """The distribution as its definition says it, in plain Python."""
    p = (LOGITS.double() / temperature).softmax(0).numpy()
    order = np.argsort(-p)
    keep = list(order[: top_k or len(p)])
    p = np.where(np.isin(np.arange(len(p)), keep), p, 0)
    p /= p.sum()
    kept, mass = [], 0.0
    for token in keep:
        if mass >= top_p and kept:
            break
        kept.append(token)
        mass += p[token]
    p = np.where(np.isin(np.arange(len(p)), kept), p, 0)
    p = np.where(p >= min_p * p.max(), p, 0)
    return p / p.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.5, 0, 1.0, 0.0),
        (2.0, 3, 1.0, 0.0),
        (1.0, 0, 0.7, 0.0),
        (1.0, 4, 0.8, 0.0),
        (1.5, 1, 0.1, 0.0),
        (1.0, 0, 1.0, 0.2),
        (2.0, 0, 1.0, 0.2),
        (1.0, 4, 0.95, 0.1),
        (1.0, 0, 1.0, 1.0),
    ],
)
def test_draws_follow_the_filtered_softmax(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    count = 40_000
    drawn = sample(
        LOGITS.repeat(count, 1),
        rows(count, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )
    seen = np.bincount(drawn.numpy(), minlength=len(LOGITS))
    expected = reference(temperature, top_k, top_p, min_p) * count
    assert seen[expected == 0].sum() == 0
    possible = expected > 0
    if possible.sum() > 1:
        assert stats.chisquare(seen[possible], expected[possible]).pvalue > 1e-4


def test_the_chi_square_has_the_power_to_see_a_small_bias() -> None:
    count = 40_000
    drawn = sample(LOGITS.repeat(count, 1), rows(count, temperature=1.05))
    seen = np.bincount(drawn.numpy(), minlength=len(LOGITS))
    assert stats.chisquare(seen, reference(1.0, 0, 1.0) * count).pvalue < 1e-4


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(64, 500)
    together = sample(logits, rows(64))
    for i in (0, 17, 63):
        one = rows(64)
        alone = SamplingRows(
            one.temperature[i : i + 1],
            one.top_k[i : i + 1],
            one.top_p[i : i + 1],
            one.min_p[i : i + 1],
            one.seed[i : i + 1],
            one.position[i : i + 1],
        )
        assert sample(logits[i : i + 1], alone)[0] == together[i]
    assert (sample(logits, rows(64, seed=6)) != together).any()


def test_noise_is_gumbel_and_uncorrelated_between_positions_and_tokens() -> None:
    keys = torch.arange(200, dtype=torch.int64)[:, None] * 0x9E3779B97F4A7C1
    noise = gumbel(keys, 1000)
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().numpy()[::7], "gumbel_r").pvalue > 1e-3
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        r = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
        assert abs(r) < 4 / np.sqrt(a.numel())


def test_greedy_rows_stay_greedy_beside_drawn_ones() -> None:
    mixed = rows(4)
    mixed.temperature[::2] = 0
    tokens = sample(LOGITS.repeat(4, 1), mixed)
    assert tokens[0] == tokens[2] == 0


@pytest.mark.parametrize("peaked", [0.5, 3.0])
@pytest.mark.parametrize("step", [0.0, 0.5])  # with it many logits are equal, as in bf16
def test_filters_look_at_the_head_first_and_miss_nothing(peaked: float, step: float) -> None:
    torch.manual_seed(2)
    logits = torch.randn(60, 2000) * peaked
    if step:
        logits = (logits / step).round() * step
    rng = np.random.default_rng(0)
    top_k = torch.from_numpy(rng.choice([0, 1, 7, 255, 256, 257, 900], 60))[:, None]
    top_p = torch.from_numpy(rng.choice([0.01, 0.5, 0.9, 0.999, 1.0], 60).astype(np.float32))
    found = _filtered(logits, top_k, top_p[:, None]) > float("-inf")
    for row in range(60):
        p = logits[row].double().softmax(0)
        order = logits[row].sort(descending=True, stable=True).indices
        kept = order[: int(top_k[row]) or 2000]
        within = p[kept] / p[kept].sum()
        before = within.cumsum(0) - within
        ours = set(found[row].nonzero()[:, 0].tolist())
        first, off = kept[:1].tolist(), float(top_p[row]) == 1.0
        must = kept[(before < float(top_p[row]) - 1e-4) | off].tolist()
        may = kept[(before < float(top_p[row]) + 1e-4) | off].tolist()
        assert {*first, *must} <= ours <= {*first, *may}
        # Its own affair: alone it is filtered alike.
        alone = _filtered(logits[row : row + 1], top_k[row : row + 1], top_p[row : row + 1, None])
        assert ((alone[0] > float("-inf")) == found[row]).all()


def test_choices_of_one_seed_draw_apart() -> None:
    logits = torch.zeros(400, 1000)
    drawn = [sample(logits, rows(400, seed=choice_seed(5, choice))) for choice in range(4)]
    drawn.append(sample(logits, rows(400, seed=6)))
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert (a == b).sum() < 8  # 0.4 are expected to agree by chance
    assert choice_seed(5, 0) == 5
    assert len({choice_seed(seed, choice) for seed in range(50) for choice in range(50)}) == 2500
