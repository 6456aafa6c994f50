"""How the limits (`--slo`) were kept as the load rose, and the capacity found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from penstock.record.capacity import SHARE
from penstock.record.sentences import number
from penstock.record.slo import Slo
from penstock.report import look
from penstock.report.look import Chart
from penstock.report.view import View

_METRICS = {
    "ttft": ("ttft_from_schedule", "to the first token, from schedule"),
    "tpot": ("tpot", "per output token"),
    "e2e": ("e2e", "for the whole answer, from schedule"),
}
_Rows = Sequence[Mapping[str, Any]]


def kept(view: View, slo: Slo, width: int, height: int) -> Chart | None:
    """One limited metric against the load; what breaks the limit is hollow. None without a value.

    A limit without a quantile is drawn against the share that capacity wants.
    """
    key, until = _METRICS[slo.metric]
    quantile = slo.quantile or SHARE
    rows = [
        {"x": load, "y": at, "ok": at <= slo.limit_s}
        for one in view.points
        if (load := one.summary["load"]["concurrency"] or one.summary["load"]["rate"])
        and len(values := one.values(key))
        for at in [float(np.quantile(values, quantile))]
    ]
    if not rows:
        return None
    limit: dict[str, Any] = {"x": rows[0]["x"], "y": slo.limit_s}
    unit = look.in_unit([*rows, limit], "y")
    closed = view.summaries[0]["load"]["kind"] == "closed"
    x = alt.X("x:Q", title="requests at once" if closed else "requests/s", **look.axis(rows, "x"))
    y = alt.Y("y:Q", title=None, **look.axis([*rows, limit], "y"))
    measured = alt.Chart(look.data(rows)).encode(x=x, y=y)
    return look.dress(
        alt.layer(
            *_threshold(f"limit {number(limit['y'])} {unit}", limit["y"], y),
            measured.mark_line(color=look.ACCENT[0], strokeWidth=1.5),
            *_marks(measured),
            title=f"p{quantile * 100:g}, {unit} {until}",
        ),
        width,
        height,
    )


def capacity(found: Mapping[str, Any], width: int, height: int) -> Chart | None:
    """Each trial's share of requests that missed a limit, and the capacity with its interval.

    Hollow marks missed more than is allowed, small ones only searched for where
    to look. None where there was no trial.
    """
    allowed = 1 - found["share"]
    rows = [
        {
            "x": trial["load"],
            "y": 100 * max(trial["missed"].values(), default=0) / trial["asked"],
            "ok": max(trial["missed"].values(), default=0) <= allowed * trial["asked"] + 1e-9,
            "bracket": trial["role"] == "bracket",
        }
        for trial in found["tried"]
        if trial["asked"]
    ]
    if not rows:
        return None
    low, high = found["ci95"] or (None, None)
    at = [{"x": load} for load in (found["load"], low, high) if load]
    x = alt.X("x:Q", title=found["unit"], **look.axis([*rows, *at], "x"))
    y = alt.Y(
        "y:Q",
        title=None,
        # A root gives small shares room and still has a zero.
        scale=alt.Scale(type="sqrt", domain=[0, max(5.0, *(row["y"] for row in rows)) * 1.05]),
        axis=alt.Axis(values=[0, 1, 5, 10, 25, 50, 100], format=look.ROUND),
    )
    trials = alt.Chart(look.data(rows)).encode(x=x, y=y)
    searched = trials.transform_filter("datum.bracket")
    return look.dress(
        alt.layer(
            *_shade(found, x),
            *_threshold(f"allowed {100 * allowed:.3g} %", 100 * allowed, y),
            *_marks(searched, size=22),
            *_marks(trials.transform_filter("!datum.bracket")),
            title="% of requests that missed a limit, each trial",
        ),
        width,
        height,
    )


def _marks(measured: alt.Chart, size: int = 60) -> list[alt.Chart]:
    kept, broken = (measured.transform_filter(which) for which in ("datum.ok", "!datum.ok"))
    return [
        kept.mark_point(size=size, filled=True, color=look.ACCENT[0], opacity=1),
        broken.mark_point(
            size=size,
            fill=look.COLOURS["paper"][0],
            stroke=look.WARN[0],
            strokeWidth=1.8,
            opacity=1,
        ),
    ]


def _threshold(name: str, at: float, y: alt.Y) -> list[alt.Chart]:
    """A dashed line across, with its name on it."""
    base = alt.Chart(look.data([{"y": at, "name": name}])).encode(y=y)
    red = look.WARN[0]
    return [
        base.mark_rule(color=red, strokeDash=[5, 3], strokeWidth=1.3),
        base.mark_text(dy=-7, align="left", fontSize=11, color=red).encode(
            x=alt.value(6), text="name:N"
        ),
    ]


def _shade(found: Mapping[str, Any], x: alt.X) -> list[alt.Chart]:
    """The capacity as a line over its interval, named at its top."""
    if not found["load"]:
        return []
    low, high = found["ci95"] or (found["load"], found["load"])
    row = {
        "x": found["load"],
        "low": low,
        "high": high,
        "name": f"capacity {number(found['load'])}",
    }
    base = alt.Chart(look.data([row]))
    return [
        base.mark_rect(color=look.SHADE[0], opacity=1).encode(
            x=alt.X("low:Q", scale=x["scale"]), x2="high:Q"
        ),
        base.mark_rule(color=look.INK[0], strokeWidth=1.3).encode(x=x),
        base.mark_text(
            dx=-6, align="right", fontSize=12, fontWeight="bold", color=look.INK[0]
        ).encode(x=x, y=alt.value(8), text="name:N"),
    ]
