"""Percentiles, and confidence intervals that do not pretend neighbours are independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats as st

Interval = list[float]  # [low, high]
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


class Spread(TypedDict):
    """A distribution in a few numbers; all None when there is no sample.

    `needs` says how many samples each percentile wants before it deserves
    trust (see `samples_for`); compare it with `n`.
    """

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    n: int
    ci95: Interval | None
    needs: dict[str, int]


def samples_for(quantile: float, confidence: float = 0.95) -> int:
    """Samples after which the largest one lies above the true quantile, with `confidence`.

    Below that, no distribution-free upper bound for the quantile exists:
    the smallest n with 1 - q^n >= confidence.
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


NEEDS = {name: samples_for(q) for name, q in QUANTILES.items()}


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's t interval for the mean of independent values, such as repeats of a run.

    None with fewer than two values.
    """
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(st.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return [mean - half, mean + half]


def batch_means(values: Sequence[float], batches: int = 10) -> Interval | None:
    """95 % interval for the mean of a correlated series, by batch means.

    `values` in the order in which they happened. Consecutive values are
    averaged in equal batches, which are then nearly independent (Law & Kelton,
    Simulation Modeling and Analysis, 9.5.3). None with fewer than two values
    a batch; the remainder that fills no batch is left out at the front.
    """
    size = len(values) // batches
    if size < 2:
        return None
    kept = np.asarray(values[len(values) - size * batches :], dtype=float)
    return t_interval(kept.reshape(batches, size).mean(axis=1).tolist())


def spread(values: Sequence[float]) -> Spread:
    """Mean with its batch-means interval, and percentiles, of values in order of happening."""
    if not values:
        return Spread(mean=None, p50=None, p90=None, p99=None, n=0, ci95=None, needs=NEEDS)
    p50, p90, p99 = (float(q) for q in np.quantile(values, list(QUANTILES.values())))
    return Spread(
        mean=float(np.mean(values)),
        p50=p50,
        p90=p90,
        p99=p99,
        n=len(values),
        ci95=batch_means(values),
        needs=NEEDS,
    )
