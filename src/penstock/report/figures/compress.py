"""A compressed checkpoint, drawn: beside its original, and what each technique saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from penstock.report import look
from penstock.report.look import Chart

_MEASURES = {
    "influence of each layer": ("layer", "influence", "1 - cosine of input and output"),
    "error of each layer's output": ("layer", "error", "% of what the layer changes"),
    "loss as layers go": ("layer", "loss", "nats a token of calibration text"),
    "loss of training rows": ("seconds", "loss", "nats a token"),
    "width of each layer": ("layer", "intermediate_size", "neurons"),
    "share of zeros in each layer": ("layer", "zeros", "% of zeros"),
    "K and V made of the one input": ("layer", "apart", "% they differ from the layer's own"),
}
_PERCENT = ("error", "zeros", "apart")


def change(rows: Sequence[Mapping[str, Any]], width: int, height: int) -> Chart:
    """Every measure of `rows` after, as a share of its value before."""
    drawn = [
        {
            "measure": row["measure"],
            "share": 100 * row["after"] / row["before"],
            "said": f"{row['was']} → {row['said']}",
        }
        for row in rows
        if row["before"]
    ]
    base = alt.Chart(look.data(drawn)).encode(
        y=alt.Y(
            "measure:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelLimit=0, ticks=False, domain=False),
        ),
        x=alt.X("share:Q", title=None, axis=alt.Axis(tickCount=5, format=look.ROUND)),
    )
    line = alt.Chart(look.data([{"share": 100}])).mark_rule(
        strokeDash=[4, 3], strokeWidth=1.2, color=look.MUTED[0]
    )
    return look.dress(
        alt.layer(
            base.mark_bar(color=look.ACCENT[0], height={"band": 0.55}),
            line.encode(x="share:Q"),
            base.mark_text(align="left", dx=5, fontSize=11, color=look.INK[0]).encode(
                text="said:N"
            ),
            title="% of the original",
        ),
        width,
        height,
    )


def detail(title: str, rows: Sequence[Mapping[str, Any]], width: int, height: int) -> Chart | None:
    """What a technique saw; None where it is no curve."""
    if title not in _MEASURES or len(rows) < 2:
        return None
    by, value, axis = _MEASURES[title]
    scale = 100 if value in _PERCENT else 1
    drawn = [
        {"x": row[by] if by == "seconds" else str(row[by]), "y": scale * row[value]} for row in rows
    ]
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(zero=by != "seconds"),
        axis=alt.Axis(tickCount=5, format=look.ROUND),
    )
    if by == "seconds":
        chart = alt.Chart(look.data(drawn)).mark_line(color=look.ACCENT[0], strokeWidth=1.5)
        chart = chart.encode(x=alt.X("x:Q", title="seconds of training"), y=y)
    else:
        order = "layers in the order they go" if title == "loss as layers go" else "layer"
        x = alt.X("x:N", title=order, sort=None, axis=alt.Axis(labelAngle=0))
        chart = alt.Chart(look.data(drawn)).mark_bar(color=look.ACCENT[0]).encode(x=x, y=y)
    return look.dress(chart.properties(title=f"{title}: {axis}"), width, height)
