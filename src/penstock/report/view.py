"""A run as reports look at it: operating points by rising load, with records, window and colour.

Several figures, each in two sizes, are drawn of one operating point. What they
share is found once, as arrays: a run may hold ten million events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.record import metrics
from penstock.record.record import Record
from penstock.record.run import Point, Run
from penstock.report import look

Values = npt.NDArray[np.float64]
SHOWN = 6  # operating points in one figure; more lines cannot be told apart


@dataclass(frozen=True)
class Course:
    """One pass over an operating point, and its window in seconds from the start."""

    point: Point
    summary: Mapping[str, Any]

    @cached_property
    def seconds(self) -> float:
        """From the start of the load until everything had settled."""
        return max(self.point.end_ns - self.point.start_ns, 1) / metrics.NS_PER_S

    @cached_property
    def window(self) -> tuple[float, float]:
        """Start and end of the window, in seconds from the start."""
        return self.summary["window"]["start_s"], self.summary["window"]["end_s"]

    @cached_property
    def done(self) -> list[Record]:
        """The requests that the latency figures are taken from."""
        # Nanoseconds survive the way through a float of seconds when rounded.
        start, end = (self.point.start_ns + round(at * metrics.NS_PER_S) for at in self.window)
        return metrics.finished(metrics.scheduled_in(self.point.records, start, end))

    @cached_property
    def arrivals(self) -> metrics.Arrivals:
        """When output tokens of finished requests arrived, and how many."""
        return metrics.output_arrivals(self.point.records)


class OperatingPoint:
    """One operating point of the summary, with its repeats and its colour."""

    def __init__(
        self, summary: Mapping[str, Any], courses: Sequence[Course], index: int, colour: str
    ) -> None:
        self.summary, self.courses = summary, courses
        self.index = index  # by rising load, as the colours are
        self.colour = colour  # the light one; see `look.COLOURS`
        self._values: dict[str, Values] = {}

    @cached_property
    def done(self) -> list[Record]:
        """Requests of all repeats that the latency figures are taken from."""
        return [record for course in self.courses for record in course.done]

    def values(self, metric: str) -> Values:
        """All values of a metric of `VALUES`, in seconds and ascending."""
        if metric not in self._values:
            self._values[metric] = np.sort(VALUES[metric](self.done))
        return self._values[metric]


class View:
    """Every operating point of a summarised run, and those that figures with lines show."""

    def __init__(self, run: Run) -> None:
        self.run, self.summary = run, run.summary
        self.summaries = by_load(run.summary["points"])
        self.points = [
            OperatingPoint(
                point,
                [
                    Course(run.points[index], one)
                    for index, one in zip(point["of"], point["repeats"] or [point], strict=True)
                ],
                index,
                colour,
            )
            for index, (point, colour) in enumerate(look.coloured(self.summaries))
        ]
        self.shown = [self.points[i] for i in featured(self.summaries)]

    @property
    def curved(self) -> bool:
        """Whether a curve of loads says something: not if points differ in samples alone."""
        loads = {str(point["load"]) for point in self.summaries}
        return len(loads) > 1 or len(self.points) == 1


def by_load(points: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Points of a summary by rising load, then by samples of a task."""

    def key(point: Mapping[str, Any]) -> tuple[float, int]:
        load, quality = point["load"], point["quality"]
        return load["concurrency"] or load["rate"] or 0.0, quality["samples"] if quality else 0

    return sorted(points, key=key)


def featured(points: Sequence[Mapping[str, Any]], most: int = SHOWN) -> list[int]:
    """Indices of at most `most` points: both ends, the best throughput, and what lies farthest."""
    if len(points) <= most:
        return list(range(len(points)))
    rates = [point["output_throughput"]["value"] or 0.0 for point in points]
    chosen = {0, len(points) - 1, int(np.argmax(rates))}
    while len(chosen) < most:
        chosen.add(max(range(len(points)), key=lambda i: min(abs(i - j) for j in chosen)))
    return sorted(chosen)


def gaps(records: Iterable[Record]) -> Values:
    """What `metrics.itl` gives, as an array: millions of floats are no list."""
    parts = [np.diff(np.asarray(r.event_ns, dtype=np.float64)) for r in records]
    return np.concatenate(parts) / metrics.NS_PER_S if parts else np.empty(0)


def _each(metric: Callable[[Record], float | None]) -> Callable[[Sequence[Record]], Values]:
    return lambda records: np.array(
        [value for r in records if (value := metric(r)) is not None], dtype=np.float64
    )


VALUES: dict[str, Callable[[Sequence[Record]], Values]] = {
    "ttft": _each(metrics.ttft),
    "ttft_from_schedule": _each(metrics.ttft_from_schedule),
    "tpot": _each(metrics.tpot),
    "itl": gaps,
    "e2e": _each(metrics.e2e),
}
