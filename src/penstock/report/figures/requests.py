"""What single requests saw: distributions of their latencies, and waits by prompt length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np

from penstock.record import metrics
from penstock.record.record import Record
from penstock.record.run import Point, Run
from penstock.record.steady import steady_window
from penstock.report import look
from penstock.report.look import Chart

_SAMPLES = 160  # along a distribution
_DOTS = 300  # requests drawn of one operating point
_NINES = {0.0: "least", 0.301: "p50", 1.0: "p90", 2.0: "p99", 3.0: "p99.9", 4.0: "p99.99"}


def distribution(run: Run, metric: str, width: int, height: int) -> Chart | None:
    """Share of requests (of gaps, for "itl") within a time, a line for each operating point.

    The vertical axis gives every nine the same room, so that the tail can be
    read. p50, p90 and p99 are marked, and no line goes further than its
    samples do: n of them say nothing beyond 1 - 1/n. None without a sample.
    """
    lines: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for point, colour in look.coloured(run.points):
        values = _VALUES[metric](_in_window(point))
        if not values:
            continue
        reach = np.log10(max(len(values), 2))
        lines += _quantiles(values, np.linspace(0, reach, _SAMPLES), colour)
        levels = -np.log10(1 - np.array([0.5, 0.9, 0.99]))
        marks += _quantiles(values, levels[levels <= reach], colour)
    if not lines:
        return None
    unit = look.in_unit(lines, "x")
    look.in_unit(marks, "x", unit=unit)
    top = max(row["y"] for row in lines)
    shown = {at: name for at, name in _NINES.items() if at <= top}
    label = "".join(f"abs(datum.value-{at})<0.01?'{name}':" for at, name in shown.items()) + "''"
    x = alt.X("x:Q", title=unit, **look.axis(lines, "x"))
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(values=list(shown), labelExpr=label, grid=True),
    )
    by_load = alt.Color("colour:N", scale=None)
    return look.dress(
        alt.layer(
            alt.Chart(look.data(lines))
            .mark_line(strokeWidth=1.6)
            .encode(x=x, y=y, color=by_load, order="y:Q"),
            alt.Chart(look.data(marks))
            .mark_circle(size=34, opacity=1)
            .encode(x=x, y=y, color=by_load),
        ),
        width,
        height,
    )


def _quantiles(values: Sequence[float], levels: Any, colour: str) -> list[dict[str, Any]]:
    """The quantile at each of `levels`, which count nines: 1 is p90, 2 is p99."""
    at = np.quantile(values, 1 - 10.0**-levels)
    return [
        {"x": float(x), "y": float(y), "colour": colour} for x, y in zip(at, levels, strict=True)
    ]


def prompts(run: Run, width: int, height: int) -> Chart | None:
    """Time to first token of each request against its prompt's length; None without any."""
    rows = []
    for point, colour in look.coloured(run.points):
        seen = [
            {"x": r.prompt_tokens, "y": wait, "colour": colour}
            for r in _in_window(point)
            if r.prompt_tokens is not None and (wait := metrics.ttft(r)) is not None
        ]
        rows += seen[:: -(-len(seen) // _DOTS)] if seen else []
    if not rows:
        return None
    unit = look.in_unit(rows, "y")
    return look.dress(
        alt.Chart(look.data(rows), title=f"{unit} to the first token, from sending")
        .mark_circle(size=16, opacity=0.65)
        .encode(
            x=alt.X("x:Q", title="prompt tokens", axis=alt.Axis(tickCount=6)),
            y=alt.Y("y:Q", title=None, **look.axis(rows, "y")),
            color=alt.Color("colour:N", scale=None),
        ),
        width,
        height,
    )


def _in_window(point: Point) -> list[Record]:
    """The requests that the latency figures are taken from."""
    window = steady_window(point)
    return metrics.finished(metrics.scheduled_in(point.records, window.start_ns, window.end_ns))


def _each(metric: Callable[[Record], float | None], records: Sequence[Record]) -> list[float]:
    return [value for r in records if (value := metric(r)) is not None]


_VALUES: dict[str, Callable[[Sequence[Record]], list[float]]] = {
    "ttft_from_schedule": lambda records: _each(metrics.ttft_from_schedule, records),
    "tpot": lambda records: _each(metrics.tpot, records),
    "itl": metrics.itl,
    "e2e": lambda records: _each(metrics.e2e, records),
}
