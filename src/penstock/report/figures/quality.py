"""What more samples of each task buy: right answers, and right answers per second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from penstock.report import look
from penstock.report.look import Chart
from penstock.report.view import View

_WAYS = {
    "any_right": ("one of them right", look.MUTED[0]),
    "accuracy": ("majority right", look.ACCENT[0]),
    "sample_accuracy": ("each sample right", look.OTHER[0]),
}


def accuracy(view: View, width: int, height: int) -> Chart | None:
    """Share of tasks answered rightly against samples, in three ways, with intervals."""
    rows = [
        {"x": quality["samples"], **_between(quality[way], 100), "name": name, "colour": colour}
        for quality in _qualities(view)
        for way, (name, colour) in _WAYS.items()
        if quality[way]["value"] is not None
        and (way == "accuracy" or quality["samples"] > 1 or len(_qualities(view)) > 1)
    ]
    title = "% of tasks, with 95 % intervals"
    return _against_samples(rows, title, width, height, top=100)


def right_per_second(view: View, width: int, height: int) -> Chart | None:
    """Right answers per second, by majority, against samples of each task."""
    rows = [
        {
            "x": quality["samples"],
            **_between(quality["correct_per_s"], 1),
            "name": "",
            "colour": look.ACCENT[0],
        }
        for quality in _qualities(view)
        if quality["correct_per_s"]["value"] is not None
    ]
    return _against_samples(rows, "right answers/s, by majority", width, height)


def _qualities(view: View) -> list[Mapping[str, Any]]:
    """Of the operating points that asked tasks, the load that was asked most often."""
    asked = [one.summary for one in view.points if one.summary["quality"]]
    if not asked:
        return []
    loads = [str(p["load"]) for p in asked]
    common = max(loads, key=loads.count)
    return [p["quality"] for p, load in zip(asked, loads, strict=True) if load == common]


def _between(figure: Mapping[str, Any], scale: float) -> dict[str, float]:
    value = figure["value"]
    low, high = figure["ci95"] or (value, value)
    return {"y": value * scale, "low": max(low, 0.0) * scale, "high": high * scale}


def _against_samples(
    rows: list[dict[str, Any]], title: str, width: int, height: int, top: float | None = None
) -> Chart | None:
    """None with fewer than two numbers of samples: a single one is a figure in the table."""
    samples = sorted({row["x"] for row in rows})
    if len(samples) < 2:
        return None
    highest = max(row["high"] for row in rows)
    ceiling = min(highest * 1.08 or 1, top or highest * 1.08 or 1)
    ends = [row for row in rows if row["x"] == samples[-1]]
    labels = _apart(ends, 0.06 * ceiling, ceiling)
    x = alt.X(
        "x:O", title="samples of each task", axis=alt.Axis(labelAngle=0, grid=False), sort=samples
    )
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[0, ceiling]),
        axis=alt.Axis(tickCount=5, format=look.ROUND),
    )
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(look.data(rows)).encode(x=x)
    return look.dress(
        alt.layer(
            base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
                y=alt.Y("low:Q", title=None), y2="high:Q", color=colour
            ),
            base.mark_line(strokeWidth=1.6).encode(y=y, color=colour, detail="name:N"),
            base.mark_circle(size=50, opacity=1).encode(y=y, color=colour),
            alt.Chart(look.data(labels))
            .mark_text(dy=-9, dx=-7, align="right", fontSize=11)
            .encode(x=x, y=y, text="label:N", color=colour),
            title=title,
        ),
        width,
        height,
    )


def _apart(ends: list[dict[str, Any]], least: float, top: float) -> list[dict[str, Any]]:
    """The names of lines where they end, moved until none stands on another or above `top`."""
    ends = sorted(ends, key=lambda row: float(row["y"]))
    heights: list[float] = []
    for end in ends:
        heights.append(max(end["y"], heights[-1] + least) if heights else end["y"])
    over = max(0.0, heights[-1] - top)
    return [
        {"x": end["x"], "y": height - over, "label": end["name"], "colour": end["colour"]}
        for end, height in zip(ends, heights, strict=True)
    ]
