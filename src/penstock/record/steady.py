"""Where in a run the figures are taken: after the warm-up, before the drain.

Warm-up is not drained: its requests run on into the window, so that the
window opens under the load it is meant to show. It opens when as many
requests have ended as belong to the warm-up and closes when the load stops.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.record import metrics
from penstock.record.run import Point
from penstock.record.stats import batch_means

SLICES = 10  # equal parts of the window, for rates over time
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
    ends = sorted(r.end_ns for r in point.records if r.end_ns is not None)
    if len(ends) >= max(point.warmup, 1):
        start = ends[point.warmup - 1] if point.warmup else point.start_ns
        inside = metrics.scheduled_in(point.records, start, point.stop_ns)
        long_enough = point.stop_ns - start >= MIN_SHARE * (point.stop_ns - point.start_ns)
        if len(inside) >= MIN_REQUESTS and long_enough:
            reason = _drift(point, start)
            return Window(
                start_ns=start,
                end_ns=point.stop_ns,
                steady=reason is None,
                whole_run=False,
                reason=reason,
            )
    return msgspec.structs.replace(
        whole_run(point),
        reason="too little was left between warm-up and the end of the load: "
        "the figures are of the whole run, ramp and drain included",
    )


def _drift(point: Point, start_ns: int) -> str | None:
    """Why the window is not steady: its second half differs clearly from its first."""
    done = metrics.finished(point.records)
    times = np.asarray([t for r in done for t in r.event_ns], dtype=np.int64)
    pace = metrics.rates((times, np.ones_like(times)), start_ns, point.stop_ns, 4 * SLICES)
    if change := _change(pace.tolist(), tolerance=0.10):
        return f"output events per second changed by {change:+.0%} within the window"
    waits = [
        wait
        for r in metrics.scheduled_in(done, start_ns, point.stop_ns)
        if (wait := metrics.ttft_from_schedule(r)) is not None
    ]
    if change := _change(waits, tolerance=0.50):
        return f"the wait for the first token changed by {change:+.0%} within the window"
    return None


def _change(series: Sequence[float], tolerance: float) -> float | None:
    """Relative change from first to second half, where it exceeds noise and tolerance."""
    half = len(series) // 2
    first, second = series[:half], series[half:]
    a, b = batch_means(first, batches=5), batch_means(second, batches=5)
    if a is None or b is None:
        return None
    change = float(np.mean(second)) / max(float(np.mean(first)), 1e-12) - 1
    apart = a[1] < b[0] or b[1] < a[0]
    return change if apart and abs(change) > tolerance else None
