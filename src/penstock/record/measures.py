"""What two runs are compared by: each metric as an estimate with its error.

Several repeats give independent values; a single run gives consecutive batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from penstock.record import metrics
from penstock.record.quality import Vote, over_tasks, right_arrivals, samples_of, votes
from penstock.record.record import Outcome, Record
from penstock.record.run import Point
from penstock.record.slo import Slo
from penstock.record.stats import (
    LONG_BATCHES,
    NEEDS,
    QUANTILES,
    Estimate,
    autocorrelation,
    of_batches,
    of_percentile,
    of_repeats,
    of_series,
)
from penstock.record.steady import SLICES, Window, pace, steady_window

MOST_ALIKE = 0.5


class Untestable(ValueError):
    """A metric of which these records allow no estimate; says why."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: its name as in the summary, its unit, and which way is better."""

    name: str
    unit: str
    better: Literal["higher", "lower"]


class Sample:
    """One repeat of an operating point: its window and the requests inside."""

    def __init__(self, point: Point, slos: Sequence[Slo] = ()) -> None:
        self.point, self.slos = point, slos
        self.window: Window = steady_window(point)
        self.wanted = metrics.scheduled_in(point.records, self.window.start_ns, self.window.end_ns)
        self.done = metrics.finished(self.wanted)

    @property
    def tasks(self) -> bool:
        """Whether tasks were asked, so that answers are right or wrong."""
        return any(r.task is not None for r in self.point.records)

    def held(self) -> list[Vote]:
        """What came of each task, wherever in the run. Raises `Untestable` without tasks."""
        if not self.tasks:
            raise Untestable("no tasks (--tasks) were asked")
        return votes(self.point.records, samples_of(self.point))

    def counted(self, arrivals: metrics.Arrivals) -> metrics.Arrivals:
        """The same; raises `Untestable` where requests finished but nobody counted."""
        if not len(arrivals[0]) and metrics.finished(self.point.records):
            raise Untestable("nobody counted the tokens")
        return arrivals

    def good_arrivals(self) -> metrics.Arrivals:
        """Requests that met every limit, credited when they were wanted.

        Raises `Untestable` without limits.
        """
        if not self.slos:
            raise Untestable("no limits (--slo) were given")
        good = [
            request[0].sched_ns
            for request in metrics.finished_requests(self.wanted)
            if all(slo.met_by(r) for slo in self.slos for r in request)
        ]
        return np.asarray(good, dtype=np.int64), np.ones(len(good), dtype=np.int64)


ERRORS, GOODPUT = "errors", "goodput"
ACCURACY, CORRECT = "accuracy", "correct_per_s"
_Rate = Callable[[Sample], metrics.Arrivals]
_RATES: dict[str, tuple[str, _Rate]] = {
    "output_throughput": (
        "tokens/s",
        lambda s: s.counted(metrics.output_arrivals(s.point.records)),
    ),
    "input_throughput": ("tokens/s", lambda s: s.counted(metrics.input_arrivals(s.point.records))),
    "request_throughput": ("requests/s", lambda s: metrics.request_arrivals(s.point.records)),
    GOODPUT: ("requests/s", Sample.good_arrivals),
    CORRECT: ("answers/s", lambda s: right_arrivals(s.held())),
}


def _each(metric: Callable[[Record], float | None]) -> Callable[[Sample], list[float]]:
    return lambda sample: [v for r in sample.done if (v := metric(r)) is not None]


_SERIES: dict[str, Callable[[Sample], list[float]]] = {
    "ttft": _each(metrics.ttft),
    "ttft_from_schedule": _each(metrics.ttft_from_schedule),
    "tpot": _each(metrics.tpot),
    "itl": lambda sample: metrics.itl(sample.done),
    "e2e": _each(metrics.e2e),
}
STATISTICS = ("mean", *QUANTILES)
MEASURES = {
    measure.name: measure
    for measure in (
        *(Measure(name=n, unit=unit, better="higher") for n, (unit, _) in _RATES.items()),
        *(
            Measure(name=f"{name}.{statistic}", unit="s", better="lower")
            for name in _SERIES
            for statistic in STATISTICS
        ),
        Measure(name=ERRORS, unit="share", better="lower"),
        Measure(name=ACCURACY, unit="share", better="higher"),
    )
}


def named(text: str) -> Measure:
    """The measure of a name such as `output_throughput` or `ttft.p99`; `ttft` is its mean.

    Raises `ValueError` listing the names there are.
    """
    full = f"{text}.mean" if text in _SERIES else text
    if full not in MEASURES:
        raise ValueError(
            f"there is no metric {text!r}; there are: {', '.join(_RATES)}, {ERRORS}, "
            f"{ACCURACY}, and each of {', '.join(_SERIES)} followed by one of "
            f".{', .'.join(STATISTICS)}"
        )
    return MEASURES[full]


def estimate(samples: Sequence[Sample], name: str) -> Estimate:
    """A measure of one operating point, from its repeats or from the batches of its one run.

    Raises `Untestable` with the reason where the records allow none.
    """
    if name == ACCURACY:
        made = over_tasks(vote for sample in samples for vote in sample.held())
        if made is None:
            raise Untestable("fewer than two tasks were judged")
        return made
    if len(samples) > 1:
        made = of_repeats([_value(sample, name) for sample in samples])
    else:
        made = _of_one(samples[0], name)
    if made is None:
        raise Untestable(f"fewer than two values in each of {LONG_BATCHES} batches")
    return made


def swings(sample: Sample) -> bool:
    """Whether output comes and goes so slowly that one run cannot tell that from a difference.

    Its slices are then still alike: their lag-1 autocorrelation is above one half.
    """
    slices = pace(sample.point, sample.window.start_ns, SLICES)
    return autocorrelation(np.asarray(slices)) > MOST_ALIKE


def _of_one(sample: Sample, name: str) -> Estimate | None:
    if name in _RATES:
        return of_batches([float(rate) for rate in _rates(sample, name, SLICES)])
    if name == ERRORS:
        return of_series(_failures(sample))
    series, statistic = _series(sample, name)
    return of_series(series) if statistic == "mean" else of_percentile(series, statistic)


def _value(sample: Sample, name: str) -> float:
    if name in _RATES:
        return float(_rates(sample, name, 1)[0])
    if name == ERRORS:
        failures = _failures(sample)
        if not failures:
            raise Untestable("no request was wanted in the window")
        return float(np.mean(failures))
    series, statistic = _series(sample, name)
    values = np.asarray(series)
    return float(
        values.mean() if statistic == "mean" else np.quantile(values, QUANTILES[statistic])
    )


def _rates(sample: Sample, name: str, slices: int) -> Sequence[float]:
    arrivals, window = _RATES[name][1](sample), sample.window
    return list(metrics.rates(arrivals, window.start_ns, window.end_ns, slices))


def _failures(sample: Sample) -> list[float]:
    return [float(r.outcome is not Outcome.FINISHED) for r in sample.wanted]


def _series(sample: Sample, name: str) -> tuple[list[float], str]:
    metric, statistic = name.split(".")
    series = _SERIES[metric](sample)
    needs = NEEDS.get(statistic, 1)
    if len(series) < needs:
        raise Untestable(f"{len(series)} of {needs} samples")
    return series, statistic
