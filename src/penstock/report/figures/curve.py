"""What each operating point gives: one user's speed and wait against throughput."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from penstock.record.sentences import number
from penstock.report import look
from penstock.report.look import Chart

_THROUGHPUT = "output tokens/s, all users together"


def curve(summary: Mapping[str, Any], width: int, height: int) -> Chart | None:
    """User speed against system throughput, a mark for each operating point, and the limit.

    The hollow marks are the limit at the same load, shared evenly between the
    users. None where no point has both figures.
    """
    rows, limits = [], []
    for i, (p, colour) in enumerate(look.coloured(summary["points"])):
        x, y = p["output_throughput"]["value"], p["user_speed"]["p50"]
        if x and y:
            rows.append({"i": i, "x": x, "y": y, "name": _short(p), "colour": colour})
        ceiling, users = p["limit"]["output_throughput"], p["load"]["concurrency"]
        if ceiling and users:
            name = f"limit {users}"
            limits.append({"i": i, "x": ceiling, "y": ceiling / users, "name": name})
    if not rows:
        return None
    x = alt.X("x:Q", title=_THROUGHPUT, **look.axis(rows + limits, "x"))
    y = alt.Y("y:Q", title=None, **look.axis(rows + limits, "y"))
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
            "y": p["ttft_from_schedule"]["p50"],
            "p99": p["ttft_from_schedule"]["p99"],
            "name": _short(p),
            "colour": colour,
        }
        for i, (p, colour) in enumerate(look.coloured(summary["points"]))
        if p["output_throughput"]["value"] and p["ttft_from_schedule"]["n"]
    ]
    if not rows:
        return None
    unit = look.in_unit(rows, "y", "p99")
    ends = [{"y": row[end]} for row in rows for end in ("y", "p99")]
    measured = alt.Chart(look.data(rows)).encode(
        x=alt.X("x:Q", title=_THROUGHPUT, **look.axis(rows, "x")),
        y=alt.Y("y:Q", title=None, **look.axis(ends, "y")),
    )
    colour = alt.Color("colour:N", scale=None)
    return look.dress(
        alt.layer(
            measured.mark_rule(strokeWidth=1.5).encode(y2="p99:Q", color=colour),
            measured.mark_tick(orient="horizontal", width=10, thickness=1.5).encode(
                y=alt.Y("p99:Q", title=None), color=colour
            ),
            *_marked_line(measured, dy=10),
            title=f"{unit} to the first token (median, up to p99){_legend(summary)}",
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
