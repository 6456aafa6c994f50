"""Two runs in one figure: the change of each metric with its interval, and both curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from penstock.record.compare import Pair
from penstock.report import look
from penstock.report.look import Chart

_COLOURS = {"better": look.ACCENT[0], "worse": look.WARN[0]}
_BAND = 0.02  # the axis shows at least this much to either side


def effects(pair: Pair, width: int, height: int, titled: bool = False) -> Chart | None:
    """Relative change of each tested metric with its 95 % interval; None where none has one.

    Coloured marks are differences that the test found, grey ones may be noise.
    """
    rows = [
        {
            "name": effect.name,
            "change": effect.change * 100,
            "low": effect.ci95[0] * 100,
            "high": effect.ci95[1] * 100,
            "colour": _COLOURS.get(effect.finding, look.MUTED[0]),
        }
        for effect in pair.effects
        if effect.change is not None and effect.ci95 is not None and effect.a
    ]
    if not rows:
        return None
    drawn = _effects(rows, f"{pair.at}: " if titled else "")
    return look.dress(drawn, width, height)


def _effects(rows: list[dict[str, Any]], prefix: str) -> Any:
    reach = max(_BAND * 100, *(max(abs(row["low"]), abs(row["high"])) for row in rows)) * 1.08
    names = [row["name"] for row in rows]
    base = alt.Chart(look.data(rows)).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(grid=False, ticks=False)),
    )
    x = alt.Scale(domain=[-reach, reach], nice=False)
    colour = alt.Color("colour:N", scale=None)
    zero = alt.Chart(look.data([{"x": 0}])).mark_rule(color=look.MUTED[0], strokeWidth=1)
    return alt.layer(
        zero.encode(x=alt.X("x:Q", scale=x)),
        base.mark_rule(strokeWidth=1.6).encode(
            x=alt.X("low:Q", scale=x, title="% change of B against A", axis=alt.Axis(tickCount=6)),
            x2="high:Q",
            color=colour,
        ),
        base.mark_circle(size=64, opacity=1).encode(
            x=alt.X("change:Q", scale=x, title="% change of B against A"), color=colour
        ),
        title=f"{prefix}95 % intervals; colour: a difference found",
    )


def stacked(charts: Sequence[Any]) -> Chart:
    """Several effect figures below each other on paper."""
    return look.on_paper(alt.vconcat(*map(look.bare, charts), spacing=24))


def curves(a: Mapping[str, Any], b: Mapping[str, Any], width: int, height: int) -> Chart | None:
    """User speed against throughput for A and B, each with its name at its last point.

    None unless both have a point with both figures.
    """
    lines = [_line(summary, name) for summary, name in ((a, "A"), (b, "B"))]
    if not all(lines):
        return None
    rows = [row for line in lines for row in line]
    colours = alt.Scale(domain=["A", "B"], range=[look.MUTED[0], look.ACCENT[0]])
    base = alt.Chart(look.data(rows)).encode(
        x=alt.X("x:Q", title="output tokens/s, all users together", **look.axis(rows, "x")),
        y=alt.Y("y:Q", title=None, **look.axis(rows, "y")),
        color=alt.Color("run:N", scale=colours, legend=None),
    )
    ends = [line[-1] for line in lines]
    # One above and one below, so that equal runs do not hide each other's name.
    labels = [
        alt.Chart(look.data([end]))
        .mark_text(dx=9, dy=dy, align="left", fontSize=12, fontWeight="bold")
        .encode(
            x="x:Q",
            y="y:Q",
            text="run:N",
            color=alt.Color("run:N", scale=colours, legend=None),
        )
        for end, dy in zip(ends, (-8, 8), strict=True)
    ]
    return look.dress(
        alt.layer(
            base.mark_line(strokeWidth=1.5).encode(order="i:Q"),
            base.mark_circle(size=60, opacity=1),
            *labels,
            title="tokens/s to each user (median)",
        ),
        width,
        height,
    )


def _line(summary: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    points = [(p["output_throughput"]["value"], p["user_speed"]["p50"]) for p in summary["points"]]
    return [{"run": name, "i": i, "x": x, "y": y} for i, (x, y) in enumerate(points) if x and y]
