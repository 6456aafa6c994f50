"""What was watched while a run went on: values over time, on the records' clock."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

Kind = Literal["gauge", "counter"]


class Series(msgspec.Struct, kw_only=True):
    """One quantity over time. `at_ns` are moments of `time.monotonic_ns`, rising.

    A gauge is what it was at that moment, a counter the sum since its source began.
    """

    name: str  # "waiting", "kv_usage", ...
    unit: str  # "requests", "share", "tokens", "J", ...
    kind: Kind
    source: str  # who said so: "vllm:num_requests_waiting", "RAPL package-0"
    position: int | None = None  # in a guess, from 0, where each is told apart
    at_ns: list[int] = []
    values: list[float] = []


def at(series: Series, when_ns: int) -> float | None:
    """The value at a moment, between two readings in a straight line; None outside them."""
    if not series.at_ns or not series.at_ns[0] <= when_ns <= series.at_ns[-1]:
        return None
    # Relative to the first, so that float64 holds the nanoseconds.
    times = np.asarray(series.at_ns, dtype=np.int64) - series.at_ns[0]
    return float(np.interp(when_ns - series.at_ns[0], times, series.values))


def grown(series: Series, start_ns: int, end_ns: int) -> float | None:
    """By how much a counter grew within `[start_ns, end_ns]`.

    None if it was not watched from before to after, or began again at zero.
    """
    before, after = at(series, start_ns), at(series, end_ns)
    if before is None or after is None or np.any(np.diff(series.values) < 0):
        return None
    return after - before


def share(part: Series, whole: Series, start_ns: int, end_ns: int) -> float | None:
    """Growth of one counter over that of another: hit rates, acceptance. None if nothing grew."""
    parts, wholes = grown(part, start_ns, end_ns), grown(whole, start_ns, end_ns)
    return parts / wholes if parts is not None and wholes else None
