"""An ablation drawn: the waterfall of gains, each technique alone, and where each one loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from penstock.ablate.result import Ablation, Curve, Figure, RungResult
from penstock.ablate.rungs import BASE
from penstock.report import look
from penstock.report.look import Chart

EXACT, LOSSY, OUT = "same answers", "costs quality", "did not pay, left out"
_COLOURS = {EXACT: look.ACCENT[0], LOSSY: look.OTHER[0], OUT: look.MUTED[0]}
_ROW = 26  # pixels of a rung
_LONGEST = 46  # characters of a rung's title on a wide axis


def waterfall(found: Ablation, width: int, height: int) -> Chart:
    """How far each rung carries, on a log scale: times the base, from rung to rung."""
    rows = list(_steps(found))
    for row in rows:
        row["title"] = _named(row["title"], width)
    ends = [row[end] for row in rows for end in ("from", "to")]
    base = alt.Chart(look.data(rows)).encode(y=_names(rows, "title", width))
    x = _log(
        "from",
        min(ends) / 1.15,
        max(ends) * 2.2,
        f"times {BASE}: fp32, KV cache, one request at a time",
    )
    bars = base.encode(x=x, x2="to:Q", color=_colour(EXACT, LOSSY, OUT))
    kept = bars.transform_filter(f"datum.kind != '{OUT}'").mark_bar(height={"band": 0.6})
    out = bars.transform_filter(f"datum.kind == '{OUT}'").mark_bar(
        height={"band": 0.22}, opacity=0.55
    )
    labels = base.encode(x=alt.X("most:Q"), text="said:N")
    return look.dress(
        alt.layer(
            _line(1.0),
            kept,
            out,
            labels.mark_text(align="left", dx=6, fontSize=11, color=look.INK[0]),
            title="gain over the rung before, and in brackets over the base",
        ),
        width,
        max(height, 90 + _ROW * len(rows)),
    )


def alone(found: Ablation, width: int, height: int) -> Chart | None:
    """Each technique by itself beside the rung it was added to: median and all rounds."""
    rows: list[dict[str, Any]] = [
        {
            "title": _named(one.title, width),
            "x": one.alone.ratio.median,
            "low": one.alone.ratio.low,
            "high": one.alone.ratio.high,
            "kind": EXACT if one.exact else LOSSY,
            "said": f"{times(one.alone.ratio)} over {one.alone.over}",
        }
        for one in found.rungs
        if one.alone is not None
    ]
    if not rows:
        return None
    low, high = min(r["low"] for r in rows), max(r["high"] for r in rows)
    base = alt.Chart(look.data(rows)).encode(
        y=_names(rows, "title", width), color=_colour(EXACT, LOSSY)
    )
    x = _log("x", low / 1.15, high * 2.6, "tokens/s, times those of the rung it was added to")
    return look.dress(
        alt.layer(
            _line(1.0),
            base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q"),
            base.mark_circle(size=60, opacity=1).encode(x=x),
            base.mark_text(align="left", dx=8, fontSize=11).encode(
                x=alt.X("high:Q"), text="said:N", color=alt.value(look.INK[0])
            ),
            title="median of the rounds, and the range of all",
        ),
        width,
        max(height, 90 + _ROW * len(rows)),
    )


def curve(one: Curve, width: int, height: int) -> Chart:
    """A technique alone over requests at once: above the line it gains, below it loses."""
    rows = [
        {"x": p.requests, "y": p.ratio.median, "low": p.ratio.low, "high": p.ratio.high}
        for p in one.points
    ]
    x = alt.X(
        "x:Q",
        title="requests at once",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=[row["x"] for row in rows], format=look.ROUND, grid=False),
    )
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(zero=False, nice=True),
        axis=alt.Axis(tickCount=5, format=look.ROUND),
    )
    base = alt.Chart(look.data(rows)).encode(x=x)
    return look.dress(
        alt.layer(
            alt.Chart(look.data([{"y": 1.0}]))
            .mark_rule(strokeDash=[4, 3], color=look.MUTED[0])
            .encode(y="y:Q"),
            base.mark_area(opacity=0.14, color=look.ACCENT[0]).encode(y="low:Q", y2="high:Q"),
            base.mark_line(strokeWidth=1.6, color=look.ACCENT[0]).encode(y=y),
            base.mark_circle(size=44, opacity=1).encode(
                y=y,
                color=alt.condition(
                    "datum.y < 1", alt.value(look.WARN[0]), alt.value(look.ACCENT[0])
                ),
            ),
            title=f"times the tokens/s of {one.over}; below 1 it loses",
        ),
        width,
        height,
    )


def times(figure: Figure | float) -> str:
    """A factor in three digits."""
    value = figure.median if isinstance(figure, Figure) else figure
    return f"{value:.3g} x" if value < 100 else f"{value:,.0f} x"


def _steps(found: Ablation) -> list[dict[str, Any]]:
    """Each rung's bar, from the gain below it to its own."""
    rows: list[dict[str, Any]] = []
    below = 1.0
    for one in found.rungs:
        if one.together is None:
            continue
        if one.name == BASE:
            least = 1 / one.together.ratio.median
            rows.append(_bar(one, least, 1.0, EXACT))
            continue
        to, kept = one.together.gain, one.together.kept
        rows.append(_bar(one, below, to, (EXACT if one.exact else LOSSY) if kept else OUT))
        below = to if kept else below
    return rows


def _bar(one: RungResult, start: float, to: float, kind: str) -> dict[str, Any]:
    assert one.together is not None
    said = (
        f"{times(one.together.ratio)} ({times(to)})" if kind != OUT else times(one.together.ratio)
    )
    return {
        "title": one.title,
        "from": start,
        "to": to,
        "most": max(start, to),
        "kind": kind,
        "said": said,
    }


def _named(title: str, width: int) -> str:
    """A title that leaves room for the bars."""
    most = _LONGEST if width > 400 else 24
    return title if len(title) <= most else title[: most - 1].rstrip() + "…"


def _names(rows: Sequence[dict[str, Any]], key: str, width: int) -> alt.Y:
    return alt.Y(
        f"{key}:N",
        sort=[row[key] for row in rows],
        title=None,
        axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=round(0.5 * width)),
    )


def _log(key: str, low: float, high: float, title: str) -> alt.X:
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [step * 10.0**power for power in range(-3, 6) for step in steps]
    return alt.X(
        f"{key}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=[t for t in ticks if low <= t <= high], format=look.ROUND),
    )


def _line(at: float) -> alt.Chart:
    rule = alt.Chart(look.data([{"at": at}]))
    line: alt.Chart = rule.mark_rule(strokeDash=[4, 3], strokeWidth=1.2, color=look.MUTED[0])
    return line.encode(x="at:Q")


def _colour(*kinds: str) -> alt.Color:
    return alt.Color(
        "kind:N",
        scale=alt.Scale(domain=list(kinds), range=[_COLOURS[kind] for kind in kinds]),
        legend=alt.Legend(
            title=None,
            orient="bottom",
            symbolOpacity=1,
            labelLimit=0,
            labelColor=look.MUTED[0],
            symbolType="square",
        ),
    )
