"""The figures of a run as Vega-Lite charts, each sized for the place it is put in.

Nothing here computes a metric: values come from the summary or from
`penstock.record.metrics`. What would be too many marks is thinned, never the
data a number is taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import altair as alt
import numpy as np

from penstock.record import metrics
from penstock.record.record import Record
from penstock.record.run import Point, Run
from penstock.record.sentences import number
from penstock.record.steady import steady_window
from penstock.report import look
from penstock.report.look import Chart

T = TypeVar("T")

_THROUGHPUT = "output tokens/s, all users together"
_SAMPLES = 160  # along a distribution
_SLICES = 120  # of a timeline
_DOTS = 300  # requests drawn of one operating point

DISTRIBUTIONS: dict[str, Callable[[Sequence[Record]], list[float]]] = {
    "ttft_from_schedule": lambda rs: _each(metrics.ttft_from_schedule, rs),
    "tpot": lambda rs: _each(metrics.tpot, rs),
    "itl": metrics.itl,
    "e2e": lambda rs: _each(metrics.e2e, rs),
}


def _each(metric: Callable[[Record], float | None], records: Sequence[Record]) -> list[float]:
    return [value for r in records if (value := metric(r)) is not None]


def curve(summary: Mapping[str, Any], width: int, height: int) -> Chart | None:
    """User speed against system throughput, a mark for each operating point, and the limit.

    The hollow marks are the limit at the same load, shared evenly between the
    users. None where no point has both figures.
    """
    rows, limits = [], []
    for i, (p, colour) in enumerate(_coloured(summary["points"])):
        x, y = p["output_throughput"]["value"], p["user_speed"]["p50"]
        if x and y:
            rows.append({"i": i, "x": x, "y": y, "name": _short(p), "colour": colour})
        ceiling, users = p["limit"]["output_throughput"], p["load"]["concurrency"]
        if ceiling and users:
            name = f"limit {users}"
            limits.append({"i": i, "x": ceiling, "y": ceiling / users, "name": name})
    if not rows:
        return None
    x = alt.X("x:Q", title=_THROUGHPUT, **_axis(rows + limits, "x"))
    y = alt.Y("y:Q", title=None, **_axis(rows + limits, "y"))
    measured = alt.Chart(look.data(rows)).encode(x=x, y=y)
    limit = alt.Chart(look.data(limits)).encode(x=x, y=y)
    grey = look.MUTED[0]
    return look.dress(
        alt.layer(
            limit.mark_line(strokeDash=[4, 3], strokeWidth=1.2, color=grey).encode(order="i:Q"),
            limit.mark_point(size=45, filled=False, strokeWidth=1.2, color=grey),
            limit.mark_text(dx=-7, dy=11, align="right", fontSize=11, color=grey).encode(
                text="name:N"
            ),
            *_marked_line(measured, dy=-8),
            title=f"tokens/s to each user (median){_legend(summary)}",
        ),
        width,
        height,
    )


def waits(summary: Mapping[str, Any], width: int, height: int) -> Chart | None:
    """Time to first token, p50 to p99, against system throughput; None without any."""
    rows = [
        {
            "i": i,
            "x": p["output_throughput"]["value"],
            "y": p["ttft_from_schedule"]["p50"] * 1000,
            "p99": p["ttft_from_schedule"]["p99"] * 1000,
            "name": _short(p),
            "colour": colour,
        }
        for i, (p, colour) in enumerate(_coloured(summary["points"]))
        if p["output_throughput"]["value"] and p["ttft_from_schedule"]["n"]
    ]
    if not rows:
        return None
    ends = [{"y": row[end]} for row in rows for end in ("y", "p99")]
    measured = alt.Chart(look.data(rows)).encode(
        x=alt.X("x:Q", title=_THROUGHPUT, **_axis(rows, "x")),
        y=alt.Y("y:Q", title=None, **_axis(ends, "y")),
    )
    colour = alt.Color("colour:N", scale=None)
    return look.dress(
        alt.layer(
            measured.mark_rule(strokeWidth=1.5).encode(y2="p99:Q", color=colour),
            measured.mark_tick(orient="horizontal", width=10, thickness=1.5).encode(
                y=alt.Y("p99:Q", title=None), color=colour
            ),
            *_marked_line(measured, dy=10),
            title=f"ms to the first token (median, up to p99){_legend(summary)}",
        ),
        width,
        height,
    )


def _marked_line(measured: alt.Chart, dy: int) -> list[alt.Chart]:
    """A line through the operating points by rising load, and each one's mark and name."""
    return [
        measured.mark_line(color=look.ACCENT[0], strokeWidth=1.5).encode(order="i:Q"),
        measured.mark_circle(size=70, opacity=1).encode(color=alt.Color("colour:N", scale=None)),
        measured.mark_text(
            dx=8, dy=dy, align="left", fontSize=12, fontWeight="bold", color=look.INK[0]
        ).encode(text="name:N"),
    ]


def distribution(run: Run, metric: str, width: int, height: int) -> Chart | None:
    """Share of requests (of gaps, for "itl") within a time, a line for each operating point.

    The vertical axis gives every nine the same room, so that the tail can be
    read; p50, p90 and p99 are marked. None without any sample.
    """
    lines: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for point, shade in _coloured(run.points):
        values = DISTRIBUTIONS[metric](_in_window(point))
        if not values:
            continue
        levels = np.linspace(0, np.log10(max(len(values), 100)), _SAMPLES)
        at = np.quantile(values, 1 - 10.0**-levels) * 1000
        lines += [
            {"x": float(x), "y": float(y), "colour": shade} for x, y in zip(at, levels, strict=True)
        ]
        quantiles = np.quantile(values, [0.5, 0.9, 0.99]) * 1000
        marks += [
            {"x": float(x), "y": -np.log10(1 - q), "colour": shade}
            for x, q in zip(quantiles, (0.5, 0.9, 0.99), strict=True)
        ]
    if not lines:
        return None
    top = max(row["y"] for row in lines)
    nines = {0: "least", 0.30103: "p50", 1: "p90", 2: "p99", 3: "p99.9", 4: "p99.99"}
    shown = {at: name for at, name in nines.items() if at <= top}
    label = "".join(f"abs(datum.value-{at})<0.01?'{name}':" for at, name in shown.items()) + "''"
    x = alt.X("x:Q", title="ms", **_axis(lines, "x"))
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(values=list(shown), labelExpr=label, grid=True),
    )
    colour = alt.Color("colour:N", scale=None)
    return look.dress(
        alt.layer(
            alt.Chart(look.data(lines))
            .mark_line(strokeWidth=1.6, interpolate="monotone")
            .encode(x=x, y=y, color=colour, order="y:Q"),
            alt.Chart(look.data(marks))
            .mark_circle(size=34, opacity=1)
            .encode(x=x, y=y, color=colour),
        ),
        width,
        height,
    )


def timeline(point: Point, colour: str, width: int, height: int) -> Chart:
    """Output tokens/s over an operating point, requests in flight below, the window shaded.

    `colour` is the one that this point has in other figures.
    """
    window = steady_window(point)
    length = max(point.end_ns - point.start_ns, 1)
    edges = point.start_ns + length * np.arange(_SLICES + 1) / _SLICES
    at = (edges[:-1] + edges[1:]) / 2
    pace = metrics.rates(
        metrics.output_arrivals(point.records), point.start_ns, point.start_ns + length, _SLICES
    )
    sent = np.sort([r.sent_ns for r in point.records if r.sent_ns is not None])
    ended = np.sort([r.end_ns for r in point.records if r.end_ns is not None])
    flying = np.searchsorted(sent, at, "right") - np.searchsorted(ended, at, "right")
    rows = [
        {"t": float(t - point.start_ns) * metrics.NS, "pace": float(v), "flying": int(n)}
        for t, v, n in zip(at, pace, flying, strict=True)
    ]
    shade = [
        {
            "from": (window.start_ns - point.start_ns) * metrics.NS,
            "to": (window.end_ns - point.start_ns) * metrics.NS,
        }
    ]
    domain = alt.Scale(domain=[0, length * metrics.NS], nice=False)
    behind = (
        alt.Chart(look.data(shade))
        .mark_rect(color=look.SHADE[0], opacity=1)
        .encode(x=alt.X("from:Q", scale=domain), x2="to:Q")
    )
    base = alt.Chart(look.data(rows))
    # Both panels have the same room for their labels, so that their times align.
    room = 46
    inner = width - room - 14
    upper = base.mark_line(color=colour, strokeWidth=1.4, interpolate="step").encode(
        x=alt.X("t:Q", title=None, scale=domain, axis=alt.Axis(labels=False, grid=False)),
        y=alt.Y("pace:Q", title=None, axis=_roomy(room, 4)),
    )
    lower = base.mark_line(color=look.MUTED[0], strokeWidth=1.4, interpolate="step").encode(
        x=alt.X("t:Q", title="seconds", scale=domain, axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("flying:Q", title=None, axis=_roomy(room, 2)),
    )
    panels = alt.vconcat(
        alt.layer(behind, upper, title="output tokens/s").properties(
            width=inner, height=round(height * 0.5)
        ),
        alt.layer(behind, lower, title="requests in flight").properties(
            width=inner, height=round(height * 0.18)
        ),
        spacing=8,
    )
    return look.dressed(panels)


def _roomy(room: int, ticks: int) -> alt.Axis:
    return alt.Axis(
        minExtent=room - 8, maxExtent=room - 8, tickCount=ticks, format=",~g", tickMinStep=1
    )


def prompts(run: Run, width: int, height: int) -> Chart | None:
    """Time to first token of each request against its prompt's length; None without any."""
    rows = []
    for point, colour in _coloured(run.points):
        seen = [
            {"x": r.prompt_tokens, "y": wait * 1000, "colour": colour}
            for r in _in_window(point)
            if r.prompt_tokens is not None and (wait := metrics.ttft(r)) is not None
        ]
        rows += seen[:: -(-len(seen) // _DOTS)] if seen else []
    if not rows:
        return None
    return look.dress(
        alt.Chart(look.data(rows), title="ms to the first token, from sending")
        .mark_circle(size=16, opacity=0.65)
        .encode(
            x=alt.X("x:Q", title="prompt tokens", axis=alt.Axis(tickCount=6)),
            y=alt.Y("y:Q", title=None, **_axis(rows, "y")),
            color=alt.Color("colour:N", scale=None),
        ),
        width,
        height,
    )


def _coloured(points: Sequence[T]) -> Iterator[tuple[T, str]]:
    """Each operating point with its colour."""
    return zip(points, (light for light, _ in look.ramp(len(points))), strict=True)


def _in_window(point: Point) -> list[Record]:
    """The requests that the latency figures are taken from."""
    window = steady_window(point)
    return metrics.finished(metrics.scheduled_in(point.records, window.start_ns, window.end_ns))


def _axis(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    return look.axis([row[key] for row in rows])


def _short(point: Mapping[str, Any]) -> str:
    """The load as a label beside a mark."""
    load = point["load"]
    if load["kind"] == "closed":
        return str(load["concurrency"])
    return f"{number(load['rate'])}/s" if load["kind"] == "open" else "trace"


def _legend(summary: Mapping[str, Any]) -> str:
    """What a bare number beside a mark means."""
    closed = any(p["load"]["kind"] == "closed" for p in summary["points"])
    return "; marks: users at once" if closed else ""
