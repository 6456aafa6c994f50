"""Percentiles, and confidence intervals that do not pretend neighbours are independent.

Everything here rests on one idea: an `Estimate`, a value with its standard
error and degrees of freedom, found from parts that are as good as independent.
The parts are repeats of a run, or consecutive batches within one. Intervals
and tests are then Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats as st

Interval = list[float]  # [low, high]
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
# Schmeiser (1982): more batches than 10 to 30 gain little and are less independent. A
# percentile wants longer ones.
BATCHES, LONG_BATCHES = 20, 10


class Spread(TypedDict):
    """A distribution in a few numbers; all None when there is no sample.

    `needs` says how many samples each percentile wants before it deserves
    trust (see `samples_for`); compare it with `n`. `intervals` holds the 95 %
    interval of each figure, `ci95` that of the mean.
    """

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    n: int
    ci95: Interval | None
    intervals: dict[str, Interval | None]
    needs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its standard error, and the degrees of freedom of that error."""

    value: float
    se: float
    df: float

    def widened(self, share: float) -> Estimate:
        """With a second, independent error, known beforehand to be this share of the value."""
        found, known = self.se**2, (share * self.value) ** 2
        df = (
            self.df
            if known == 0
            else math.inf
            if found == 0
            else self.df * (1 + known / found) ** 2
        )
        return Estimate(self.value, math.sqrt(found + known), df)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Student's t interval."""
        half = float(st.t.ppf((1 + confidence) / 2, self.df)) * self.se
        return [self.value - half, self.value + half]


def samples_for(quantile: float, confidence: float = 0.95) -> int:
    """Samples after which the largest one lies above the true quantile, with `confidence`.

    Below that, no distribution-free upper bound for the quantile exists:
    the smallest n with 1 - q^n >= confidence.
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


NEEDS = {name: samples_for(q) for name, q in QUANTILES.items()}


def of_repeats(values: Sequence[float]) -> Estimate | None:
    """The mean of independent values, such as repeats of a run; None with fewer than two.

    Standard error s/sqrt(n) with n - 1 degrees of freedom.
    """
    n = len(values)
    if n < 2:
        return None
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n), n - 1)


def of_batches(parts: Sequence[float], value: float | None = None) -> Estimate | None:
    """An estimate from the figures of consecutive batches; None with fewer than two.

    `value` is the figure of all batches together, their mean unless given.
    With parts y_1..y_b the squared standard error is
    sum (y_i - value)^2 / (b (b - 1)), times (1 + r)/(1 - r) where the parts'
    lag-1 autocorrelation r is above zero. Sources: batch means, Law & Kelton,
    Simulation Modeling and Analysis, 9.5.3; spread about the whole rather than
    about the parts' mean ("sectioning"), Asmussen & Glynn, Stochastic
    Simulation, III.5; the correction for batches too short to be independent,
    Tafazzoli & Wilson, Skart, IIE Transactions 43 (2011), here with r freed of
    its bias in short series, (r + 1/b)/(1 - 3/b) (Kendall, Biometrika 41
    (1954)), without which slow swings would pass for differences.
    """
    b = len(parts)
    if b < 2:
        return None
    y = np.asarray(parts, dtype=float)
    centre = float(y.mean()) if value is None else value
    variance = float(((y - centre) ** 2).sum()) / (b * (b - 1))
    return Estimate(centre, math.sqrt(variance * _inflation(y)), b - 1)


def _inflation(parts: npt.NDArray[np.float64]) -> float:
    """How much more the mean of correlated parts varies than that of independent ones."""
    r = min(max(autocorrelation(parts), 0.0), 0.9)
    return (1 + r) / (1 - r)


def autocorrelation(parts: npt.NDArray[np.float64]) -> float:
    """Of neighbours (lag 1), without the bias of short series; 0 where nothing varies."""
    b, off = len(parts), parts - parts.mean()
    total = float((off**2).sum())
    if total == 0 or b <= 3:
        return 0.0
    return (float((off[1:] * off[:-1]).sum()) / total + 1 / b) / (1 - 3 / b)


def of_series(
    values: Sequence[float],
    statistic: Callable[[npt.NDArray[np.float64]], float] = np.mean,
    batches: int = BATCHES,
) -> Estimate | None:
    """A statistic of a correlated series, `values` in the order in which they happened.

    Consecutive values form `batches` equal batches (see `of_batches`), or
    `LONG_BATCHES` where they are too few; what fills none is left out of them
    at the front. None with fewer than two values in each of those.
    """
    parts = batched(values, batches)
    if parts is None:
        parts = batched(values, LONG_BATCHES)
    if parts is None:
        return None
    whole = float(statistic(np.asarray(values, dtype=float)))
    return of_batches([float(statistic(part)) for part in parts], whole)


def batched(values: Sequence[float], batches: int) -> npt.NDArray[np.float64] | None:
    """The series as `batches` rows of consecutive values; None with fewer than two in a row."""
    size = len(values) // batches
    if size < 2:
        return None
    kept = np.asarray(values[len(values) - size * batches :], dtype=float)
    return kept.reshape(batches, size)


def interval(estimate: Estimate | None) -> Interval | None:
    """The 95 % interval of an estimate; None of none."""
    return None if estimate is None else estimate.interval()


def t_interval(values: Sequence[float]) -> Interval | None:
    """95 % t interval for the mean of independent values; None with fewer than two."""
    return interval(of_repeats(values))


def batch_means(values: Sequence[float]) -> Interval | None:
    """95 % interval for the mean of a correlated series; None with too few values."""
    return interval(of_series(values))


def spread(values: Sequence[float]) -> Spread:
    """Mean and percentiles, with their intervals, of values in the order of happening.

    A percentile with fewer samples than it needs has no interval.
    """
    if not values:
        nothing = dict.fromkeys(("mean", *QUANTILES))
        return Spread(
            mean=None, p50=None, p90=None, p99=None, n=0, ci95=None, intervals=nothing, needs=NEEDS
        )
    p50, p90, p99 = (float(q) for q in np.quantile(values, list(QUANTILES.values())))
    intervals: dict[str, Interval | None] = {"mean": batch_means(values)}
    for name in QUANTILES:
        intervals[name] = interval(of_percentile(values, name))
    return Spread(
        mean=float(np.mean(values)),
        p50=p50,
        p90=p90,
        p99=p99,
        n=len(values),
        ci95=intervals["mean"],
        intervals=intervals,
        needs=NEEDS,
    )


def of_percentile(values: Sequence[float], name: str) -> Estimate | None:
    """One of `QUANTILES` of a correlated series; None with fewer samples than it needs."""
    if len(values) < NEEDS[name]:
        return None
    return of_series(values, lambda part: float(np.quantile(part, QUANTILES[name])), LONG_BATCHES)


@dataclass(frozen=True, slots=True)
class Difference:
    """B against A: `change` is (B - A)/A, `ci95` its interval, `p` of the test for none.

    `change` is None where only A is zero; `ci95` where A's own error reaches zero.
    """

    change: float | None
    ci95: Interval | None
    p: float


def difference(a: Estimate, b: Estimate) -> Difference:
    """Welch's t test of two independent estimates, and the interval of their ratio.

    t = (b - a)/sqrt(sa^2 + sb^2) with the degrees of freedom of Welch and
    Satterthwaite, (sa^2 + sb^2)^2 / (sa^4/da + sb^4/db) (Welch 1947). The
    interval of b/a is Fieller's (1954): all ratios theta for which
    |b - theta a| <= t sqrt(sb^2 + theta^2 sa^2), here with the test's degrees
    of freedom, so that it leaves out 1 just when the test finds p < 0.05.
    """
    gap, va, vb = b.value - a.value, a.se**2, b.se**2
    change = gap / a.value if a.value else 0.0 if gap == 0 else None
    if va + vb == 0:
        exact = None if change is None else [change, change]
        return Difference(change, exact, 1.0 if gap == 0 else 0.0)
    inverse = (va**2 / a.df + vb**2 / b.df) / (va + vb) ** 2
    df = 1 / inverse if inverse else math.inf
    p = 2 * float(st.t.sf(abs(gap) / math.sqrt(va + vb), df))
    q = float(st.t.ppf(0.975, df)) ** 2
    lead = a.value**2 - q * va
    if lead <= 0:
        return Difference(change, None, p)
    middle = a.value * b.value
    half = math.sqrt(max(middle**2 - lead * (b.value**2 - q * vb), 0.0))
    return Difference(change, [(middle - half) / lead - 1, (middle + half) / lead - 1], p)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false finding among them keeps its rate.

    Holm (1979): the i-th smallest of m is multiplied by m - i (from 0), and no
    adjusted value is below one before it. Holds under any dependence.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted
