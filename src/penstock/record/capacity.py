"""Capacity at SLO from trials: the load up to which the wanted share of requests meets its limits.

The share of misses is fitted as a logistic function of the load, as a
dose-response curve is, and the load at which the curve crosses the allowed
share is the capacity. Its interval is Fieller's (1954; Finney, Probit
Analysis, 1971, ch. 4). Misses come in clumps, since a queue that is long now
is long a moment later; the scatter of whole trials about the curve measures
that and widens the interval (quasi-likelihood: McCullagh & Nelder,
Generalized Linear Models, 1989, 4.5). Inside a trial nothing is taken to be
independent.

The loads must have been chosen before their trials ran (`meter.capacity`): a
load that was kept because its trial failed would pull the curve. And no
interval holds what trials of so many seconds cannot show, a queue that takes
longer to build up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats as st

from penstock.record import metrics
from penstock.record.run import Point, Role, Run
from penstock.record.slo import Slo
from penstock.record.stats import Interval
from penstock.record.steady import warm_ns

SHARE = 0.99  # of requests that must meet a limit which names no quantile
CONFIDENCE = 0.95
METHOD = (
    "logistic fit of misses against load over whole trials at loads set beforehand; "
    "95 % interval by Fieller, with overdispersion"
)

Vector = npt.NDArray[np.float64]


class Trial(msgspec.Struct, frozen=True):
    """What one load gave: of `asked` requests, how many missed a limit.

    `missed` counts by the share that is wanted: limits of one quantile belong
    together, and a request misses if it breaks any of them.
    """

    load: float  # requests/s, or requests at once
    asked: int
    missed: dict[float, int]

    def passes(self) -> bool:
        """Whether every share was reached in this trial. A trial of nothing fails."""
        return self.asked > 0 and all(
            count <= (1 - share) * self.asked for share, count in self.missed.items()
        )


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `load` and `ci95` are None where the trials do not settle it; `reason` says why.

    `share` of the requests is to meet its limits at that load.
    """

    load: float | None
    ci95: Interval | None
    share: float
    trials: int
    method: str = METHOD
    reason: str | None = None


def capacity_of(run: Run) -> dict[str, Any] | None:
    """The capacity that a run found, for its summary; None if it did not look for one.

    `unit` is that of `load`. `tried` holds every trial, those of the bracket too.
    """
    tried = [p for p in run.points if p.role in (Role.BRACKET, Role.TRIAL)]
    if not tried and run.unsettled is None:
        return None
    trials = [trial_of(p, run.slos) for p in tried if p.role is Role.TRIAL]
    found = estimate(trials)
    if run.unsettled is not None:
        found = msgspec.structs.replace(found, load=None, ci95=None, reason=run.unsettled)
    closed = any(p.load.concurrency is not None for p in tried)
    return {
        **msgspec.to_builtins(found),
        "unit": "requests at once" if closed else "requests/s",
        "slo": [str(slo) for slo in run.slos],
        "tried": [
            {"role": p.role, **msgspec.to_builtins(trial_of(p, run.slos), str_keys=True)}
            for p in tried
        ],
    }


def trial_of(point: Point, slos: Sequence[Slo]) -> Trial:
    """Count the misses among the requests that were wanted after the warm-up.

    All of them: the steady window is found by how little it varies, and leaves
    out with a restless start the very misses that are to be counted. Errors
    and requests that were cut miss every limit, and so does a request with a choice
    that does: its choices share a prompt and a moment, and are one trial.
    """
    wanted = metrics.requests(metrics.scheduled_in(point.records, warm_ns(point), point.stop_ns))
    together: dict[float, list[Slo]] = {}
    for slo in slos:
        together.setdefault(slo.quantile or SHARE, []).append(slo)
    load = point.load.rate if point.load.concurrency is None else point.load.concurrency
    return Trial(
        load=float(load or 0.0),
        asked=len(wanted),
        missed={
            share: sum(
                not all(slo.met_by(record) for slo in limits for record in choices)
                for choices in wanted
            )
            for share, limits in together.items()
        },
    )


def estimate(trials: Sequence[Trial]) -> Capacity:
    """Capacity from trials at loads that were chosen beforehand: that of the tightest limits."""
    shares = {share for t in trials for share in t.missed} or {SHARE}
    each = [_estimate(trials, share) for share in sorted(shares)]
    unknown = [c for c in each if c.load is None]
    return unknown[0] if unknown else min(each, key=lambda c: c.load or 0.0)


def _estimate(trials: Sequence[Trial], share: float) -> Capacity:
    some = [t for t in trials if t.asked]
    load = np.array([t.load for t in some])
    asked = np.array([t.asked for t in some], dtype=float)
    missed = np.array([t.missed[share] for t in some], dtype=float)

    def answer(at: float | None, interval: Interval | None, reason: str | None = None) -> Capacity:
        return Capacity(load=at, ci95=interval, share=share, trials=len(trials), reason=reason)

    rate = missed / asked
    clean, bad = load[missed == 0], load[rate > 0.5]
    if not ((missed > 0) & (rate <= 0.5)).any() and len(clean) and len(bad):
        # A cliff: nothing to fit between a load that serves all and one that serves few.
        low, high = float(clean.max()), float(bad.min())
        if low < high:
            return answer(math.sqrt(low * high), [low, high])
    if len(np.unique(load)) < 3:
        return answer(None, None, "too few loads were tried")
    # Half a miss more, and half a pass, keep the fit finite where a trial has none.
    scale, middle = float(np.ptp(load)), float(load.mean())
    x = np.column_stack([np.ones_like(load), (load - middle) / scale])
    coefficients, covariance = _fit(x, asked + 1, missed + 0.5)
    found, interval = _crossing(
        coefficients, covariance, math.log((1 - share) / share), len(load) - 2
    )
    if found is None or interval is None:
        return answer(None, None, "misses did not clearly rise with the load; try longer trials")
    low, high = (max(0.0, middle + scale * z) for z in interval)
    return answer(max(0.0, middle + scale * found), [low, high])


def _fit(x: Vector, count: Vector, events: Vector) -> tuple[Vector, Vector]:
    """Logistic regression by iterated least squares: coefficients and their covariance.

    The covariance carries the overdispersion where that is above one: the mean
    of Pearson's squared residuals, each as it would be had its trial been left
    out of the fit, 1/(1 - leverage) times as large (MacKinnon & White, J.
    Econometrics 29 (1985)). Chi squared over its degrees of freedom is too
    small for so few trials: nine in ten of its 95 % intervals held the truth.
    """
    share = events / count
    eta: Vector = np.log(share / (1 - share))
    coefficients: Vector = np.zeros(x.shape[1])
    for _ in range(50):
        mean = 1 / (1 + np.exp(-eta))
        weight = count * mean * (1 - mean)
        working = eta + (share - mean) * count / weight
        before = coefficients
        information = x.T @ (weight[:, None] * x)
        solved = np.linalg.solve(information, x.T @ (weight * working))
        coefficients = solved.astype(np.float64)
        eta = np.clip(x @ coefficients, -12.0, 12.0)
        if np.allclose(before, coefficients, atol=1e-8):
            break
    mean = 1 / (1 + np.exp(-eta))
    weight = count * mean * (1 - mean)
    information = x.T @ (weight[:, None] * x)
    inverse: Vector = np.linalg.inv(information).astype(np.float64)
    leverage = weight * np.einsum("ij,jk,ik->i", x, inverse, x)
    left_out = (events - count * mean) ** 2 / weight / (1 - leverage) ** 2
    return coefficients, inverse * max(1.0, float(left_out.mean()))


def _crossing(
    coefficients: Vector, covariance: Vector, level: float, df: int
) -> tuple[float | None, Interval | None]:
    """Where a + b z reaches `level`, and the z that Fieller's interval holds; b must be above 0."""
    a, b = float(coefficients[0]) - level, float(coefficients[1])
    if b <= 0:
        return None, None
    t2 = float(st.t.ppf((1 + CONFIDENCE) / 2, df)) ** 2
    (va, cab), (_, vb) = covariance.tolist()
    lead, half_b, rest = b * b - t2 * vb, a * b - t2 * cab, a * a - t2 * va
    root = half_b * half_b - lead * rest
    if lead <= 0 or root < 0:
        return -a / b, None
    return -a / b, [(-half_b - math.sqrt(root)) / lead, (-half_b + math.sqrt(root)) / lead]
