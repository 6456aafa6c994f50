"""A calibration, drawn: what it predicts for every span against what was measured."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from penstock.predict.calibrate import Calibration
from penstock.report import look
from penstock.report.look import Chart

DOTS = 1500  # more would only cover one another
_KINDS = {"decodes alone": look.ACCENT[0], "with prompts": look.OTHER[0]}
_COLOUR = alt.Color(
    "kind:N",
    scale=alt.Scale(domain=list(_KINDS), range=list(_KINDS.values())),
    legend=alt.Legend(title=None, orient="bottom", labelColor=look.MUTED[0]),
)


def agreement(made: Calibration, width: int, height: int) -> Chart:
    """Milliseconds a step, predicted against measured; on the line they agree."""
    rows = _rows(made)
    for row in rows:
        row["x"], row["y"] = 1e3 * row["measured"], 1e3 * row["predicted"]
    ends = [value for row in rows for value in (row["x"], row["y"])]
    span = [{"x": end, "y": end} for end in (min(ends), max(ends))]
    x = alt.X("x:Q", title="measured", **look.axis([*rows, *span], "x"))
    y = alt.Y("y:Q", title=None, **look.axis([*rows, *span], "y"))
    line = alt.Chart(look.data(span)).mark_line(
        strokeDash=[4, 3], strokeWidth=1.2, color=look.MUTED[0]
    )
    dots = alt.Chart(look.data(rows)).mark_circle(size=18, opacity=0.55)
    return look.dress(
        alt.layer(
            line.encode(x=x, y=y),
            dots.encode(x=x, y=y, color=_COLOUR),
            title="milliseconds a step, predicted",
        ),
        width,
        height,
    )


def course(made: Calibration, width: int, height: int) -> Chart:
    """Predicted over measured in the course of the run; what is beyond the axis is at its edge."""
    rows = _rows(made)
    start = min(row["ended"] for row in rows)
    for row in rows:
        ratio = row["predicted"] / row["measured"]
        row["x"], row["y"] = row["ended"] - start, 100 * (min(max(ratio, 0.5), 2.0) - 1)
    x = alt.X("x:Q", title="seconds of the run")
    y = alt.Y("y:Q", title=None, scale=alt.Scale(domain=[-50, 100]))
    zero = alt.Chart(look.data([{"y": 0}])).mark_rule(
        strokeDash=[4, 3], strokeWidth=1.2, color=look.MUTED[0]
    )
    dots = alt.Chart(look.data(rows)).mark_circle(size=18, opacity=0.55)
    return look.dress(
        alt.layer(
            zero.encode(y=y),
            dots.encode(x=x, y=y, color=_COLOUR),
            title="predicted against measured, % off, in the course of the run",
        ),
        width,
        height,
    )


def _rows(made: Calibration) -> list[dict[str, Any]]:
    spans, step = made.spans, made.step
    count = len(spans.seconds)
    shown = np.unique(np.linspace(0, count - 1, min(count, DOTS)).astype(int))
    rows = []
    for i in shown:
        steps = float(spans.steps[i])
        predicted = sum(times * step.seconds(load) for times, load in spans.loads(i))
        predicted += float(spans.requests[i]) * step.request_s
        rows.append(
            {
                "ended": float(spans.ended[i]),
                "measured": float(spans.seconds[i]) / steps,
                "predicted": predicted / steps,
                "kind": "with prompts" if spans.mixed[i] > 0 else "decodes alone",
            }
        )
    return rows
