"""What each operating point gives: one user's speed and wait against throughput."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from penstock.record.run import Role
from penstock.record.sentences import number
from penstock.report import look
from penstock.report.look import Chart
from penstock.report.view import OperatingPoint, View

_THROUGHPUT = "output tokens/s, all users together"
_COLOUR = alt.Color("colour:N", scale=None)
_Rows = list[dict[str, Any]]


def curve(view: View, width: int, height: int) -> Chart | None:
    """User speed against system throughput, a mark for each operating point, and the limit.

    On the dashed line is the limit at the same load, shared evenly between the
    users. Small dots are single repeats. None where no point has both figures,
    and of a single point without a limit, which is no curve.
    """
    rows: _Rows = []
    limits: _Rows = []
    for one in view.points:
        p = one.summary
        x, y = p["output_throughput"]["value"], p["user_speed"]["p50"]
        if x and y:
            rows.append({**_mark(one), "x": x, "y": y})
        ceiling, users = p["limit"]["output_throughput"], p["load"]["concurrency"]
        if ceiling and users:
            name = "" if limits else "hardware limit"
            limits.append({"i": one.index, "x": ceiling, "y": ceiling / users, "name": name})
    if not rows or len(rows + limits) < 2:
        return None
    single = _repeats(view, "user_speed")
    x = alt.X("x:Q", title=_THROUGHPUT, **look.axis(rows + limits + single, "x"))
    y = alt.Y("y:Q", title=None, **look.axis(rows + limits + single, "y"))
    limit = alt.Chart(look.data(limits)).encode(x=x, y=y)
    grey = look.MUTED[0]
    return look.dress(
        alt.layer(
            limit.mark_line(strokeDash=[4, 3], strokeWidth=1.2, color=grey).encode(order="i:Q"),
            limit.mark_point(size=45, filled=False, strokeWidth=1.2, color=grey),
            limit.mark_text(dx=-7, dy=11, align="right", fontSize=11, color=grey).encode(
                text="name:N"
            ),
            *_dots(single, x, y),
            *_marked_line(rows, x, y, dy=-8),
            title=f"tokens/s to each user (median){_legend(view.summaries)}",
        ),
        width,
        height,
    )


def waits(view: View, width: int, height: int) -> Chart | None:
    """Time to first token, p50 to p99, against system throughput; None of fewer than two points."""
    rows = [
        {
            **_mark(one),
            "x": p["output_throughput"]["value"],
            "y": p["ttft_from_schedule"]["p50"],
            "p99": p["ttft_from_schedule"]["p99"],
        }
        for one in view.points
        if (p := one.summary)["output_throughput"]["value"] and p["ttft_from_schedule"]["n"]
    ]
    if len(rows) < 2:
        return None
    unit = look.in_unit(rows, "y", "p99")
    ends = [{"y": row[end]} for row in rows for end in ("y", "p99")]
    x = alt.X("x:Q", title=_THROUGHPUT, **look.axis(rows, "x"))
    y = alt.Y("y:Q", title=None, **look.axis(ends, "y"))
    measured = alt.Chart(look.data(rows)).encode(x=x)
    return look.dress(
        alt.layer(
            measured.mark_rule(strokeWidth=1.5).encode(y=y, y2="p99:Q", color=_COLOUR),
            measured.mark_tick(orient="horizontal", width=10, thickness=1.5).encode(
                y=alt.Y("p99:Q", title=None), color=_COLOUR
            ),
            *_marked_line(rows, x, y, dy=10),
            title=f"{unit} to the first token (median, up to p99){_legend(view.summaries)}",
        ),
        width,
        height,
    )


def cost(view: View, width: int, height: int) -> Chart | None:
    """Cost of a million output tokens against the speed that a user gets for it.

    None with fewer than two points, or where the price list makes all points alike.
    """
    rows: _Rows = []
    for one in view.points:
        p = one.summary
        found, x = p["cost"], p["user_speed"]["p50"]
        if found and found["output_tokens"] and x:
            y = found["output_tokens"]
            low, high = found["output_tokens_ci95"] or (y, y)
            rows.append({**_mark(one), "x": x, "y": y, "low": low, "high": high})
    if len(rows) < 2 or max(r["y"] for r in rows) < 1.01 * min(r["y"] for r in rows):
        return None
    ends = [{"y": row[end]} for row in rows for end in ("low", "high")]
    x = alt.X("x:Q", title="tokens/s to each user (median)", **look.axis(rows, "x"))
    y = alt.Y("y:Q", title=None, **look.axis(ends, "y"))
    between = alt.Chart(look.data(rows)).mark_rule(strokeWidth=1.5)
    return look.dress(
        alt.layer(
            between.encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=_COLOUR),
            *_marked_line(rows, x, y, dy=-8),
            title=f"cost of a million output tokens{_legend(view.summaries)}",
        ),
        width,
        height,
    )


def _mark(one: OperatingPoint) -> dict[str, Any]:
    """What all marks of an operating point have."""
    return {
        "i": one.index,
        "name": short(one.summary),
        "colour": one.colour,
        "over": one.summary["role"] == Role.OVERLOAD,
    }


def short(point: Mapping[str, Any]) -> str:
    """The load, or the samples of a task, as a label beside a mark."""
    load = point["load"]
    if point["quality"]:
        return f"n = {point['quality']['samples']}"
    if load["kind"] == "closed":
        return f"{load['concurrency']:,}"
    return f"{number(load['rate'])}/s" if load["rate"] is not None else "trace"


def _repeats(view: View, speed: str) -> _Rows:
    """Each repeat of the points that were measured several times."""
    return [
        {"x": r["output_throughput"]["value"], "y": r[speed]["p50"], "colour": one.colour}
        for one in view.points
        for r in one.summary["repeats"]
        if r["output_throughput"]["value"] and r[speed]["p50"]
    ]


def _dots(rows: _Rows, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    if not rows:
        return []
    dots = alt.Chart(look.data(rows)).mark_circle(size=16, opacity=0.7)
    return [dots.encode(x=x, y=y, color=_COLOUR)]


def _marked_line(rows: _Rows, x: alt.X, y: alt.Y, dy: int) -> list[alt.Chart]:
    """A line through the operating points by rising load, and each one's mark and name."""
    _thin_names(rows)
    measured = alt.Chart(look.data(rows)).encode(x=x, y=y)
    # Hollow: past saturation, where the curve ends.
    return [
        measured.mark_line(color=look.ACCENT[0], strokeWidth=1.5).encode(order="i:Q"),
        measured.transform_filter("!datum.over")
        .mark_circle(size=70, opacity=1)
        .encode(color=_COLOUR),
        measured.transform_filter("datum.over")
        .mark_point(size=60, fill=look.COLOURS["paper"][0], strokeWidth=1.8, opacity=1)
        .encode(stroke=alt.Stroke("colour:N", scale=None)),
        measured.mark_text(
            dx=8, dy=dy, align="left", fontSize=12, fontWeight="bold", color=look.INK[0]
        ).encode(text="name:N"),
    ]


def _thin_names(rows: _Rows) -> None:
    """Take the name from marks that stand so near a named one that neither could be read.

    Both ends keep theirs. Distances are shares of the whole spread, logarithmic
    since the axes usually are; an axis spans a fifth of its values at least.
    """
    log_x, log_y = ([math.log(row[key]) for row in rows] for key in "xy")
    wide, high = (
        max(max(logs, default=0) - min(logs, default=0), math.log(1.2)) for logs in (log_x, log_y)
    )
    named: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: i not in (0, len(rows) - 1)):
        near = any(
            abs(log_x[i] - log_x[j]) < 0.07 * wide and abs(log_y[i] - log_y[j]) < 0.07 * high
            for j in named
        )
        if near:
            rows[i]["name"] = ""
        else:
            named.append(i)


def _legend(points: Sequence[Mapping[str, Any]]) -> str:
    """What a bare number beside a mark means."""
    if any(p["quality"] for p in points):
        return "; marks: samples of each task"
    closed = any(p["load"]["kind"] == "closed" for p in points)
    return "; marks: users at once" if closed else ""
