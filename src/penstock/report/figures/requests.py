"""What single requests saw: distributions of their latencies, and each against its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np

from penstock.record import metrics
from penstock.record.record import Record
from penstock.report import look
from penstock.report.look import Chart
from penstock.report.view import OperatingPoint, Values

_SAMPLES = 160  # along a distribution
DOTS = 600  # requests in one scatter, of all operating points together
_NINES = {0.0: "least", 0.301: "p50", 1.0: "p90", 2.0: "p99", 3.0: "p99.9", 4.0: "p99.99"}
_COLOUR = alt.Color("colour:N", scale=None)


def distribution(
    points: Sequence[OperatingPoint], metric: str, width: int, height: int
) -> Chart | None:
    """Share of requests (of gaps, for "itl") within a time, a line for each operating point.

    The vertical axis gives every nine the same room, so that the tail can be
    read. p50, p90 and p99 are marked, and no line goes further than its
    samples do: n of them say nothing beyond 1 - 1/n. One sample is no
    distribution, so it has no line; None without any.
    """
    return quantiles([(one.values(metric), one.colour) for one in points], width, height)


def quantiles(lines: Sequence[tuple[Values, str]], width: int, height: int) -> Chart | None:
    """`distribution` of values in seconds, ascending, each with its colour."""
    rows: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for values, colour in lines:
        if len(values) < 2:
            continue
        reach = float(np.log10(len(values)))
        rows += _levels(values, np.linspace(0, reach, _SAMPLES), colour)
        levels = -np.log10(1 - np.array([0.5, 0.9, 0.99]))
        marks += _levels(values, levels[levels <= reach], colour)
    if not rows:
        return None
    unit = look.in_unit(rows, "x")
    look.in_unit(marks, "x", unit=unit)
    top = max(row["y"] for row in rows)
    shown = {at: name for at, name in _NINES.items() if at <= top}
    label = "".join(f"abs(datum.value-{at})<0.01?'{name}':" for at, name in shown.items()) + "''"
    x = alt.X("x:Q", title=unit, **look.axis(rows, "x"))
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[0, top], nice=False),
        axis=alt.Axis(values=list(shown), labelExpr=label, grid=True),
    )
    return look.dress(
        alt.layer(
            alt.Chart(look.data(rows))
            .mark_line(strokeWidth=1.6)
            .encode(x=x, y=y, color=_COLOUR, order="y:Q"),
            alt.Chart(look.data(marks))
            .mark_circle(size=34, opacity=1)
            .encode(x=x, y=y, color=_COLOUR),
        ),
        width,
        height,
    )


def _levels(values: Values, levels: Any, colour: str) -> list[dict[str, Any]]:
    """The quantile at each of `levels`, which count nines: 1 is p90, 2 is p99."""
    at = np.quantile(values, 1 - 10.0**-levels)
    return [
        {"x": float(x), "y": float(y), "colour": colour} for x, y in zip(at, levels, strict=True)
    ]


def prompts(points: Sequence[OperatingPoint], width: int, height: int) -> Chart | None:
    """Time to first token of each request against its prompt's length; None of fewer than two."""
    pairs = _pairs(points, lambda r: r.prompt_tokens, metrics.ttft)
    return _scatter(pairs, "prompt tokens", "to the first token, from sending", (width, height))


def answers(points: Sequence[OperatingPoint], width: int, height: int) -> Chart | None:
    """Time of each whole answer against its length; None of fewer than two."""
    pairs = _pairs(points, lambda r: r.output_tokens, metrics.e2e_from_sent)
    return _scatter(pairs, "output tokens", "to the last token, from sending", (width, height))


def _pairs(
    points: Sequence[OperatingPoint],
    size: Callable[[Record], int | None],
    time: Callable[[Record], float | None],
) -> list[dict[str, Any]]:
    """A row for each request that has both; of many an even choice."""
    rows: list[dict[str, Any]] = []
    of_each = max(DOTS // max(len(points), 1), 1)
    for one in points:
        seen = [
            {"x": x, "y": y, "colour": one.colour}
            for r in one.done
            if (x := size(r)) is not None and (y := time(r)) is not None
        ]
        rows += seen[:: -(-len(seen) // of_each)] if seen else []
    return rows


def _scatter(
    rows: list[dict[str, Any]], across: str, up: str, size: tuple[int, int]
) -> Chart | None:
    if len(rows) < 2:
        return None
    unit = look.in_unit(rows, "y")
    return look.dress(
        alt.Chart(look.data(rows), title=f"{unit} {up}")
        .mark_circle(size=16, opacity=0.65)
        .encode(
            x=alt.X("x:Q", title=across, axis=alt.Axis(tickCount=6, format=look.ROUND)),
            y=alt.Y("y:Q", title=None, **look.axis(rows, "y")),
            color=_COLOUR,
        ),
        *size,
    )
