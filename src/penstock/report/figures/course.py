"""What happened over the time of one operating point, panels under one another on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from penstock.record import metrics
from penstock.record.record import Outcome
from penstock.record.series import Series
from penstock.report import look
from penstock.report.figures import guesses, server
from penstock.report.look import Chart
from penstock.report.view import Course

SLICES = 120  # of a timeline
DOTS = 360  # requests drawn one by one; of more, each slice shows its middle and its longest
_CROSS = "M-1,-1L1,1M-1,1L1,-1"
_ROOM = 46  # pixels for the labels: the same in all panels, so that their times align
_Rows = list[dict[str, Any]]


def timeline(
    course: Course, colour: str, watched: Sequence[Series], width: int, height: int
) -> Chart:
    """Output tokens/s, requests in flight, first tokens, and the server below; the window shaded.

    At the foot stands what became of guesses inside the window, if any were made.

    `colour` is the one that this operating point has in other figures. Failed
    requests are crosses at the foot of the panel of first tokens. `watched` is
    what the server and the machine told while the run went on.
    """
    time, output, flying = Time(course, width), pace(course), in_flight(course)
    panels = [
        time.panel(
            "output tokens/s",
            [time.line(output, colour, "step")],
            round(height * 0.36),
            # Of zeros alone there is no scale that has zero at its foot.
            top=None if any(row["v"] for row in output) else 1.0,
        ),
        time.panel(
            "requests in flight",
            [time.line(flying, look.MUTED[0], "step")],
            round(height * 0.16),
            ticks=min(2, max(1, round(max(row["v"] for row in flying)))),
            whole=True,
        ),
        *_first_tokens(course, time, colour, round(height * 0.24)),
        *(
            _watched(panel, time, round(height * 0.16))
            for panel in server.panels(watched, course.point.start_ns, course.seconds)
        ),
    ]
    guessed = course.summary.get("guesses")  # runs of before it was kept have none
    places = guessed["by_position"] if guessed else []
    foot = [guesses.by_position(places, time.width, round(height * 0.24))] if places else []
    return time.stack(panels, *foot)


def _watched(panel: server.Panel, time: Time, height: int) -> Any:
    """Lines of what the server told, each with its name at its last value."""
    layers, several = [], len(panel.lines) > 1
    for (name, rows), colour in zip(panel.lines.items(), (look.ACCENT, look.OTHER), strict=False):
        layers.append(time.line(rows, colour[0], "linear"))
        if several:
            highest = max(rows, key=lambda row: row["v"])
            layers.append(
                time.base([{**highest, "name": name}])
                .mark_text(dy=-6, fontSize=11, color=colour[0], align="center")
                .encode(x=time.x, y="v:Q", text="name:N")
            )
    top = panel.top
    if several:  # room for the names
        top = 1.35 * max(row["v"] for rows in panel.lines.values() for row in rows) or 1.0
    return time.panel(panel.title, layers, height, top=top, ticks=2, whole=panel.whole)


def pace(course: Course) -> _Rows:
    """Output tokens/s over time."""
    point = course.point
    end = point.start_ns + round(course.seconds * metrics.NS_PER_S)
    values = metrics.rates(course.arrivals, point.start_ns, end, SLICES)
    return _rows(course, values)


def in_flight(course: Course) -> _Rows:
    """Requests sent and not over yet, over time."""
    records = course.point.records
    at = course.point.start_ns + _middles(course) * metrics.NS_PER_S
    sent = np.sort([r.sent_ns for r in records if r.sent_ns is not None])
    ended = np.sort([r.end_ns for r in records if r.sent_ns is not None and r.end_ns is not None])
    return _rows(course, np.searchsorted(sent, at, "right") - np.searchsorted(ended, at, "right"))


def _first_tokens(course: Course, time: Time, colour: str, height: int) -> list[Any]:
    """A panel of each request's wait for its first token, at the time it was wanted."""
    start, records = course.point.start_ns, course.point.records
    waits = [
        {"t": (r.sched_ns - start) / metrics.NS_PER_S, "v": wait, "top": wait}
        for r in metrics.finished(records)
        if (wait := metrics.ttft_from_schedule(r)) is not None
    ]
    failed = [
        {"t": (r.sched_ns - start) / metrics.NS_PER_S}
        for r in records
        if r.outcome is Outcome.FAILED
    ]
    if not waits and not failed:
        return []
    many = len(waits) > DOTS
    rows = _by_slice(waits, course) if many else waits
    unit = look.in_unit(rows, "v", "top")
    dots = time.base(rows).mark_circle(size=9 if many else 12, color=colour, opacity=0.9)
    layers = [dots.encode(x=time.x, y="v:Q")]
    how = "median up to longest" if many else "each request"
    if many:
        bars = time.base(rows).mark_rule(strokeWidth=1, color=colour, opacity=0.45)
        layers.append(bars.encode(x=time.x, y="v:Q", y2="top:Q"))
    top = 1.05 * max((row["top"] for row in rows), default=0.0) or 1.0
    if failed:
        # Enough crosses to see when; more would be a bar.
        crosses = [{**row, "v": 0.05 * top} for row in failed[:: -(-len(failed) // DOTS)]]
        mark = time.base(crosses).mark_point(shape=_CROSS, size=26, color=look.WARN[0], opacity=1)
        layers.append(mark.encode(x=time.x, y="v:Q"))
        how += "; crosses: failed"
    title = f"{unit} to the first token ({how})"
    return [time.panel(title, layers, height, top=top, ticks=3)]


def _by_slice(waits: _Rows, course: Course) -> _Rows:
    """Median and longest of the waits that began in each slice."""
    at = np.array([row["t"] for row in waits])
    value = np.array([row["v"] for row in waits])
    index = np.clip((at / course.seconds * SLICES).astype(int), 0, SLICES - 1)
    middles = _middles(course)
    return [
        {
            "t": float(middles[i]),
            "v": float(np.median(inside)),
            "top": float(inside.max()),
        }
        for i in range(SLICES)
        if len(inside := value[index == i])
    ]


def _middles(course: Course) -> Any:
    return (np.arange(SLICES) + 0.5) * course.seconds / SLICES


def _rows(course: Course, values: Any) -> _Rows:
    return [
        {"t": round(float(t), 6), "v": float(v)}
        for t, v in zip(_middles(course), values, strict=True)
    ]


class Time:
    """The time axis of an operating point, which all its panels share."""

    def __init__(self, course: Course, width: int) -> None:
        self.width = width - _ROOM - 14
        self._window = course.window
        self._scale = alt.Scale(domain=[0, course.seconds], nice=False)
        self.x = alt.X("t:Q", scale=self._scale)  # its axis is the window's

    def base(self, rows: Sequence[dict[str, Any]]) -> alt.Chart:
        """A chart of rows with a time `t` in seconds."""
        return alt.Chart(look.data(rows))

    def line(self, rows: Sequence[dict[str, Any]], colour: str, how: Any) -> alt.Chart:
        """A line through the values `v`."""
        drawn: alt.Chart = (
            self.base(rows)
            .mark_line(color=colour, strokeWidth=1.4, interpolate=how)
            .encode(x=self.x, y="v:Q")
        )
        return drawn

    def panel(
        self,
        title: str,
        layers: Sequence[alt.Chart],
        height: int,
        *,
        top: float | None = None,
        ticks: int = 4,
        whole: bool = False,
    ) -> Any:
        """Layers over the shaded window, under a title that names what and in which unit.

        The values reach from 0 to `top`; `whole` marks only whole numbers.
        """
        start, end = self._window
        shade = (
            alt.Chart(look.data([{"from": start, "to": end}]))
            .mark_rect(color=look.SHADE[0], opacity=1)
            .encode(x=self._axis("from:Q", labels=False, title=None), x2="to:Q")
        )
        axis = alt.Axis(
            minExtent=_ROOM - 8,
            maxExtent=_ROOM - 8,
            tickCount=ticks,
            format=look.ROUND,
            tickMinStep=1 if whole else alt.Undefined,
        )
        scale = alt.Scale(zero=True) if top is None else alt.Scale(domain=[0, top], nice=False)
        first, *rest = layers
        measured = first.encode(y=alt.Y("v:Q", title=None, axis=axis, scale=scale))
        return alt.layer(shade, measured, *rest, title=title).properties(
            width=self.width, height=height
        )

    def stack(self, panels: Sequence[Any], *below: Any) -> Chart:
        """The panels under one another, then what has no time; the last one carries the seconds."""
        panels[-1].layer[0].encoding.x = self._axis("from:Q", title="seconds")
        return look.dressed(alt.vconcat(*panels, *below, spacing=8))

    def _axis(self, field: str, **settings: Any) -> alt.X:
        axis = alt.Axis(grid=False, tickCount=6, format=look.ROUND, **settings)
        return alt.X(field, scale=self._scale, axis=axis)
