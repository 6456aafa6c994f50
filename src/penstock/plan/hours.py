"""Device-hours over a day: of a fleet that stands, or follows the load; work moved to the night."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.plan.curve import Curve
from penstock.plan.demand import HOUR_S, MONTH_H

Counts = npt.NDArray[np.int64]


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas that a curve needs, and what they cost.

    `followed` is the least that any autoscaler can pay: it knows the load
    `startup_s` ahead, starts each replica just in time and pays from its
    start. `standing` is the fleet of the busiest window, kept all along.
    """

    source: str
    hours: float
    peak_replicas: int
    mean_replicas: float
    device_hours_standing: float
    device_hours_followed: float
    usd_standing: float
    usd_followed: float
    saving: float  # share of the standing fleet's cost
    starts: int  # of replicas, over the curve
    startup_s: float
    replicas: list[int]  # in each window


def needed(rate: float, carries: Sequence[float]) -> int:
    """Replicas that carry the rate: of each kind, one of which carries so much, at least one."""
    return sum(max(1, math.ceil(rate / each - 1e-9)) for each in carries)


def replicas_over(curve: Curve, carries: Sequence[float], startup_s: float) -> Counts:
    """Replicas paid for in each window; `carries` as in `needed`, in requests/s.

    One that starts `startup_s` before it serves is paid for from then: each
    window holds the most that is needed until its end + `startup_s`. One of
    each kind stays at night, so that a request finds it.
    """
    wanted = np.array([needed(rate, carries) for rate in curve.rates.tolist()])
    ahead = math.ceil(startup_s / curve.step_s)
    padded = np.concatenate([wanted, np.full(ahead, wanted[-1])])
    windows = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1)
    return np.asarray(windows.max(axis=1), dtype=np.int64)


def follow(
    curve: Curve,
    carries: Sequence[float],
    *,
    devices: int,
    usd_per_hour: float,
    startup_s: float,
) -> Hours:
    """Hours of replicas of so many devices and dollars an hour each, over a curve."""
    paid = replicas_over(curve, carries, startup_s)
    window_h = curve.step_s / HOUR_S
    standing, followed = float(paid.max() * len(paid)) * window_h, float(paid.sum()) * window_h
    return Hours(
        source=curve.name,
        hours=curve.hours,
        peak_replicas=int(paid.max()),
        mean_replicas=float(paid.mean()),
        device_hours_standing=standing * devices,
        device_hours_followed=followed * devices,
        usd_standing=standing * usd_per_hour,
        usd_followed=followed * usd_per_hour,
        saving=1 - followed / standing,
        starts=int(np.maximum(np.diff(paid), 0).sum() + paid[0]),
        startup_s=startup_s,
        replicas=paid.tolist(),
    )


class OffPeak(msgspec.Struct, frozen=True, kw_only=True):
    """A standing fleet before and after requests that may wait have moved into the valleys."""

    share: float
    replicas_before: int
    replicas_after: int
    usd_per_month_before: float
    usd_per_month_after: float
    usd_per_month_saved: float
    longest_wait_h: float  # of batch work, from when it was handed in
    why: str


def off_peak(curve: Curve, share: float, carries: Sequence[float], usd_per_hour: float) -> OffPeak:
    """The fewest replicas that carry the rest at its peak and the moved share over the day.

    Batch work is served behind the rest, with the capacity that is left of
    what a replica carries within its limits; the day repeats, so that what is
    left in the evening is done at night. The fleet must carry the rest at its
    busiest and, over the whole day, everything: whatever is larger sets it.
    """
    before, at_peak, over_day = (
        needed(rate, carries) for rate in (curve.peak, (1 - share) * curve.peak, curve.mean)
    )
    after = max(at_peak, over_day)
    saved = (before - after) * usd_per_hour * MONTH_H
    if before == after:
        why = (
            "the day is even, so there is no valley to move work into"
            if curve.peak < 1.01 * curve.mean
            else "the fleet is too coarse: the share is less than a replica"
        )
    else:
        why = (
            "all work together fills the smaller fleet over the day"
            if over_day >= at_peak
            else "what cannot wait needs the rest at its busiest"
        )
    return OffPeak(
        share=share,
        replicas_before=before,
        replicas_after=after,
        usd_per_month_before=before * usd_per_hour * MONTH_H,
        usd_per_month_after=after * usd_per_hour * MONTH_H,
        usd_per_month_saved=saved,
        longest_wait_h=_longest_wait(curve, share, curve.peak * after / before) / HOUR_S,
        why=why,
    )


def _longest_wait(curve: Curve, share: float, capacity: float) -> float:
    """Seconds that batch work waits at most, first come first served, once days repeat."""
    arriving = np.tile(curve.rates * share, 3)
    served = np.tile(np.maximum(0.0, capacity - (1 - share) * curve.rates), 3)
    came = np.cumsum(arriving) * curve.step_s
    done = np.empty_like(came)
    total = 0.0
    for i, (so_far, room) in enumerate(zip(came, served * curve.step_s, strict=True)):
        total = min(float(so_far), total + float(room))
        done[i] = total
    # What had come by a window's end is done in the first window by whose end as much was served.
    last = slice(len(curve.rates), 2 * len(curve.rates))
    finished = np.searchsorted(done, came[last] - 1e-6 * came[-1])
    waited = finished - np.arange(last.start, last.stop)
    return float(waited.max(initial=0)) * curve.step_s
