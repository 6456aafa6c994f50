"""What the hardware allows, drawn: throughput by batch, where time goes, what changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from penstock.plan.limits import Limits, Step
from penstock.plan.whatif import Prediction
from penstock.report import look
from penstock.report.look import Chart

_LINES = {
    "ceiling, decoding": look.ACCENT[0],
    "usual, decoding": look.ACCENT[0],
    "ceiling, with prompts": look.OTHER[0],
    "usual, with prompts": look.OTHER[0],
}
_PARTS = {
    "weights": look.ACCENT[0],
    "KV": look.OTHER[0],
    "compute": look.INK[0],
    "link": look.WARN[0],
    "overhead": look.MUTED[0],
}
_LEGEND: dict[str, Any] = {
    "title": None,
    "orient": "bottom",
    "labelLimit": 0,
    "labelColor": look.MUTED[0],
}
_EFFECTS = {"raises": look.ACCENT[0], "leaves": look.MUTED[0], "lowers": look.WARN[0]}


def throughput(found: Limits, width: int, height: int) -> Chart:
    """Tokens/s of all against the sequences in a step, at the ceiling (dashed) and usually."""
    rows = [*_rows(found.decode, "decoding"), *_rows(found.served, "with prompts")]
    x = alt.X("x:Q", title="sequences in a step", **look.axis(rows, "x"))
    y = alt.Y("y:Q", title=None, **look.axis(rows, "y"))
    lines = alt.Chart(look.data(rows)).encode(
        x=x,
        y=y,
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=list(_LINES), range=list(_LINES.values())),
            legend=alt.Legend(columns=2, symbolType="stroke", **_LEGEND),
        ),
        strokeDash=alt.StrokeDash(
            "name:N",
            scale=alt.Scale(domain=list(_LINES), range=[[4, 3], [1, 0], [4, 3], [1, 0]]),
            legend=None,
        ),
    )
    layers = [lines.mark_line(strokeWidth=1.6), lines.mark_point(size=18, filled=True, opacity=1)]
    if found.crossover is not None and rows[0]["x"] < found.crossover <= found.largest_batch:
        layers += _mark(found.crossover, f"from {found.crossover:,} compute binds", x)
    return look.dress(
        alt.layer(*layers, title="tokens/s of all sequences; dashed: the hardware's ceiling"),
        width,
        height,
    )


def parts(found: Limits, width: int, height: int) -> Chart:
    """What a usual decoding step spends its time on, by sequences in it; its length above."""
    x = alt.X(
        "x:N",
        sort=None,
        title="sequences in a step",
        axis=alt.Axis(labelAngle=0, labelOverlap="greedy"),
    )
    shares: list[dict[str, Any]] = [
        {
            "x": f"{step.batch:,}",
            "y": 100 * seconds / sum(step.parts_s.values()),
            "part": part,
            "order": order,
        }
        for step in found.decode
        for order, (part, seconds) in enumerate(step.parts_s.items())
        if seconds
    ]
    every = 1 if width > 38 * len(found.decode) else 2  # on a phone there is room for half
    lengths = [
        {"x": f"{step.batch:,}", "text": f"{1000 * step.usually_s:,.3g}"}
        for step in found.decode[::every]
    ]
    used = [part for part in _PARTS if any(row["part"] == part for row in shares)]
    scale = alt.Scale(domain=used, range=[_PARTS[part] for part in used])
    bars = (
        alt.Chart(look.data(shares))
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y(
                "y:Q",
                title=None,
                scale=alt.Scale(domain=[0, 106]),
                axis=alt.Axis(values=[0, 25, 50, 75, 100]),
            ),
            order="order:Q",
            color=alt.Color("part:N", scale=scale, legend=alt.Legend(columns=5, **_LEGEND)),
        )
    )
    above = (
        alt.Chart(look.data(lengths))
        .mark_text(dy=-5, fontSize=10, color=look.INK[0])
        .encode(x=x, y=alt.datum(100), text="text:N")
    )
    title = "% of a usual decoding step, if nothing overlapped; above: its ms"
    return look.dress(alt.layer(bars, above, title=title), width, height)


def changes(predictions: Sequence[Prediction], width: int, height: int) -> Chart:
    """The change of throughput that each change brings; the tick is that at the ceiling."""
    rows = [
        {
            "name": one.change,
            "y": 100 * one.throughput,
            "ceiling": 100 * one.at_ceiling,
            "effect": one.effect,
            "text": f"{100 * one.throughput:+.0f} %" if one.effect != "leaves" else "none",
            "raised": one.throughput > 0,
        }
        for one in predictions
    ]
    base = alt.Chart(look.data(rows)).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=260))
    )
    x = alt.X("y:Q", title="change of throughput, %", axis=alt.Axis(tickCount=6))
    domain = alt.Scale(domain=list(_EFFECTS), range=list(_EFFECTS.values()))
    return look.dress(
        alt.layer(
            base.mark_bar(height=11).encode(
                x=x, color=alt.Color("effect:N", scale=domain, legend=None)
            ),
            base.mark_tick(color=look.INK[0], thickness=1.5, height=15).encode(x="ceiling:Q"),
            *_beside_zero(base),
            title=alt.TitleParams(
                "change of throughput, usually; tick: at the ceiling", frame="bounds"
            ),
        ),
        width,
        height,
    )


def _beside_zero(base: alt.Chart) -> list[alt.Chart]:
    """Each change in words, on the side of zero that its bar leaves free."""
    text = base.encode(x=alt.datum(0), text="text:N")
    style: dict[str, Any] = {"fontSize": 11, "color": look.INK[0]}
    return [
        text.transform_filter("datum.raised").mark_text(align="right", dx=-6, **style),
        text.transform_filter("!datum.raised").mark_text(align="left", dx=6, **style),
    ]


def _rows(steps: Sequence[Step], name: str) -> list[dict[str, Any]]:
    return [
        {"x": step.batch, "y": value, "name": f"{which}, {name}"}
        for step in steps
        for which, value in (
            ("ceiling", step.tokens_per_s),
            ("usual", step.usually_tokens_per_s),
        )
    ]


def _mark(at: float, name: str, x: alt.X) -> list[alt.Chart]:
    rows: list[Mapping[str, Any]] = [{"x": at, "name": name}]
    base = alt.Chart(look.data(rows)).encode(x=x)
    return [
        base.mark_rule(color=look.MUTED[0], strokeWidth=1),
        base.mark_text(align="right", dx=-5, fontSize=11, color=look.MUTED[0]).encode(
            y=alt.value(8), text="name:N"
        ),
    ]
