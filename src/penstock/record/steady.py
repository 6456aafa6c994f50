"""Where in a run the figures are taken: after the warm-up, before the drain.

Warm-up is not drained: its requests run on into the window, so that the
window opens under the load it is meant to show. It opens when as many
requests have ended as belong to the warm-up, or later if what follows still
shows the start (`settled`), and closes when the load stops.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.record import metrics
from penstock.record.run import Point
from penstock.record.stats import BATCHES, batched, t_interval

SLICES = BATCHES  # equal parts of the window, for rates over time
FINE = 40  # slices in which the end of the start, and a drift, are looked for
MIN_REQUESTS = 5  # that begin inside the window
MIN_SHARE = 0.25  # of the time of load


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A half-open interval `[start_ns, end_ns)` of the run.

    `whole_run` is set when no inner window was long enough, so that ramp and
    drain are inside; `reason` then says why, as it does when not `steady`.
    """

    start_ns: int
    end_ns: int
    steady: bool
    whole_run: bool
    trimmed_s: float = 0.0  # left out after the warm-up, because the start still showed
    reason: str | None = None

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return (self.end_ns - self.start_ns) / metrics.NS_PER_S


def whole_run(point: Point) -> Window:
    """From the start of the load until everything has settled."""
    return Window(
        start_ns=point.start_ns,
        end_ns=max(point.end_ns, point.start_ns + 1),
        steady=False,
        whole_run=True,
        reason="the whole run, ramp and drain included",
    )


def steady_window(point: Point) -> Window:
    """Find the window of one operating point.

    Falls back to the whole run when fewer than `MIN_REQUESTS` begin inside,
    or less than `MIN_SHARE` of the load is left, and says so.
    """
    ends = _ends(point)
    if len(ends) >= max(point.warmup, 1):
        warm = ends[point.warmup - 1] if point.warmup else point.start_ns
        for start in dict.fromkeys((_settled_ns(point, warm), warm)):
            if _enough(point, start):
                reason = _drift(point, start)
                return Window(
                    start_ns=start,
                    end_ns=point.stop_ns,
                    steady=reason is None,
                    whole_run=False,
                    trimmed_s=(start - warm) / metrics.NS_PER_S,
                    reason=reason,
                )
    return msgspec.structs.replace(
        whole_run(point),
        reason="too little was left between warm-up and the end of the load: "
        "the figures are of the whole run, ramp and drain included",
    )


def warm_ns(point: Point) -> int:
    """When as many requests have ended as belong to the warm-up; the start if fewer have."""
    ends = _ends(point)
    return ends[point.warmup - 1] if 0 < point.warmup <= len(ends) else point.start_ns


def _ends(point: Point) -> list[int]:
    """When each request was over, with the last of its choices, in that order."""
    each = ([r.end_ns for r in choices] for choices in metrics.requests(point.records))
    return sorted(max(n for n in ends if n is not None) for ends in each if None not in ends)


def settled(series: Sequence[float]) -> int:
    """How many values at the front of a series belong to its start and not to its steady part.

    The MSER rule: leave out the d values that make the standard error of the
    rest, sum (y_i - mean)^2 / (n - d)^2, least
    (White, Simulation 69 (1997); White & Robinson, J. Simulation 4 (2010)).
    None are left out where that d lies beyond a third: then the series has not
    settled but drifts, which is for `_drift` to see in all of it.
    """
    y = np.asarray(series, dtype=float)
    n = len(y)
    if n < 10:
        return 0
    left = n - np.arange(n)
    total, squares = np.cumsum(y[::-1])[::-1], np.cumsum(y[::-1] ** 2)[::-1]
    error = np.maximum(squares - total**2 / left, 0.0) / left**2
    # A constant series must not be cut by rounding.
    error[error < 1e-12 * max(float(squares[0]), 1e-300) / n**2] = 0.0
    cut = int(np.argmin(error[: n // 2 + 1]))
    return cut if 3 * cut <= n else 0


def _settled_ns(point: Point, start_ns: int) -> int:
    """When both the pace of output and the wait for the first token had settled."""
    if point.stop_ns <= start_ns:
        return start_ns
    slice_ns = (point.stop_ns - start_ns) / FINE
    by_pace = start_ns + round(settled(pace(point, start_ns)) * slice_ns)
    waits = _waits(point, start_ns)
    # Groups of five, as MSER-5 has it: single waits are too noisy.
    fives = [float(np.mean([wait for _, wait in waits[i : i + 5]])) for i in _by_five(waits)]
    cut = settled(fives)
    by_wait = waits[_by_five(waits)[cut]][0] if cut else start_ns
    return max(by_pace, by_wait)


def _by_five(items: Sequence[object]) -> range:
    return range(0, len(items) // 5 * 5, 5)


def _enough(point: Point, start_ns: int) -> bool:
    load_ns, inside_ns = point.stop_ns - point.start_ns, point.stop_ns - start_ns
    inside = metrics.scheduled_in(point.records, start_ns, point.stop_ns)
    return len(inside) >= MIN_REQUESTS and inside_ns >= MIN_SHARE * load_ns


def pace(point: Point, start_ns: int, slices: int = FINE) -> list[float]:
    """Output events per second of finished requests, from then until the load stopped."""
    times = [t for r in metrics.finished(point.records) for t in r.event_ns]
    ones = np.ones(len(times), dtype=np.int64)
    arrivals = (np.asarray(times, dtype=np.int64), ones)
    return list(metrics.rates(arrivals, start_ns, point.stop_ns, slices))


def _waits(point: Point, start_ns: int) -> list[tuple[int, float]]:
    """When each request was wanted, and how long it waited for its first token."""
    done = metrics.finished(metrics.scheduled_in(point.records, start_ns, point.stop_ns))
    waits = ((r.sched_ns, metrics.ttft_from_schedule(r)) for r in done)
    return [(at, wait) for at, wait in waits if wait is not None]


def _drift(point: Point, start_ns: int) -> str | None:
    """Why the window is not steady: its second half differs clearly from its first."""
    if change := _change(pace(point, start_ns), tolerance=0.10):
        return f"output events per second changed by {change:+.0%} within the window"
    waits = [wait for _, wait in _waits(point, start_ns)]
    if change := _change(waits, tolerance=0.50):
        return f"the wait for the first token changed by {change:+.0%} within the window"
    return None


def _change(series: Sequence[float], tolerance: float) -> float | None:
    """Relative change from first to second half, where it exceeds noise and tolerance."""
    half = len(series) // 2
    first, second = batched(series[:half], 5), batched(series[half:], 5)
    if first is None or second is None:
        return None
    a, b = t_interval(first.mean(axis=1).tolist()), t_interval(second.mean(axis=1).tolist())
    assert a is not None
    assert b is not None
    change = float(second.mean()) / max(float(first.mean()), 1e-12) - 1
    apart = a[1] < b[0] or b[1] < a[0]
    return change if apart and abs(change) > tolerance else None
