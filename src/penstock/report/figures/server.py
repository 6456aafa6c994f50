"""What the server's metrics page and the machine told, as panels under the load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from penstock.record.guesses import guessed, tokens_per_step
from penstock.record.metrics import NS_PER_S
from penstock.record.series import Series, grown, share

SLICES = 60  # in which counters are turned into rates, and many readings into the highest
_Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """Lines over time in one unit, by name; `top` is where the axis ends, None: at the data."""

    title: str
    lines: dict[str, _Rows]
    top: float | None = None
    whole: bool = False


def panels(watched: Sequence[Series], start_ns: int, seconds: float) -> Iterator[Panel]:
    """What was watched in this stretch of the run; what nobody told has no panel."""
    told = Told(watched, start_ns, seconds)
    requests = {name: told.gauge(name) for name in ("running", "waiting")}
    hits = told.ratio("prefix_hits", "prefix_queries") or told.gauge("prefix_hit_rate", 100)
    preempted = told.rate("preemptions")
    guessing = guessed(watched, start_ns, start_ns + round(seconds * NS_PER_S))
    tokens = told.each(tokens_per_step) if guessing else []
    for panel in (
        Panel("at the server: requests running and waiting", requests, whole=True),
        Panel("% of the KV cache in use", {"": told.gauge("kv_usage", 100)}, top=100),
        # Where it never happened an empty panel would only take room.
        Panel("preemptions/s", {"": preempted if any(row["v"] for row in preempted) else []}),
        Panel("% of prompt tokens found in the prefix cache", {"": hits}, top=100),
        Panel("% of drafted tokens accepted", {"": told.ratio("accepted", "drafted")}, top=100),
        Panel("tokens a step and sequence", {"": tokens}),
        Panel("watts", {"": told.rate("energy")}),
    ):
        lines = {name: rows for name, rows in panel.lines.items() if rows}
        if lines:
            yield Panel(panel.title, lines, panel.top, panel.whole)


class Told:
    """What was watched within a stretch of time, as rows of `t` in seconds and `v`."""

    def __init__(self, watched: Sequence[Series], start_ns: int, seconds: float) -> None:
        self._watched = watched
        self._by_name: dict[str, list[Series]] = {}
        for one in watched:
            self._by_name.setdefault(one.name, []).append(one)
        self._start_ns = start_ns
        edges = start_ns + np.linspace(0, seconds * NS_PER_S, SLICES + 1).astype(np.int64)
        self._slices = list(pairwise(edges.tolist()))

    def gauge(self, name: str, scale: float = 1) -> _Rows:
        """Every reading; of many, the highest in each slice."""
        readings = [
            (when, value)
            for one in self._by_name.get(name, ())
            for when, value in zip(one.at_ns, one.values, strict=True)
            if self._slices[0][0] <= when <= self._slices[-1][1]
        ]
        if len(readings) > 4 * SLICES:
            highest: dict[int, tuple[int, float]] = {}
            width = self._slices[0][1] - self._slices[0][0]
            for when, value in readings:
                place = (when - self._start_ns) // width
                if place not in highest or value > highest[place][1]:
                    highest[place] = (when, value)
            readings = list(highest.values())
        return [{"t": self._seconds(when), "v": value * scale} for when, value in readings]

    def rate(self, name: str) -> _Rows:
        """Growth of a counter per second, of all devices together."""
        rows = []
        for start, end in self._slices:
            growths = [grown(one, start, end) for one in self._by_name.get(name, ())]
            known = [growth for growth in growths if growth is not None]
            if known and len(known) == len(growths):
                per_s = sum(known) / ((end - start) / NS_PER_S)
                rows.append({"t": self._seconds((start + end) / 2), "v": per_s})
        return rows

    def each(self, figure: Callable[[Sequence[Series], int, int], float | None]) -> _Rows:
        """A figure of everything watched, in each slice."""
        found = (((a + b) / 2, figure(self._watched, a, b)) for a, b in self._slices)
        return [{"t": self._seconds(at), "v": v} for at, v in found if v is not None]

    def ratio(self, part: str, whole: str) -> _Rows:
        """Growth of one counter over that of another, in percent."""
        if part not in self._by_name or whole not in self._by_name:
            return []
        of, all_ = self._by_name[part][0], self._by_name[whole][0]
        found = (((start + end) / 2, share(of, all_, start, end)) for start, end in self._slices)
        return [{"t": self._seconds(at), "v": v * 100} for at, v in found if v is not None]

    def _seconds(self, at_ns: float) -> float:
        return (at_ns - self._start_ns) / NS_PER_S
