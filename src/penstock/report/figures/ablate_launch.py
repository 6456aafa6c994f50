"""Flags of a server beside the server without them, drawn."""

from __future__ import annotations

from typing import Any

import altair as alt

from penstock.ablate.launch import Launched
from penstock.report import look
from penstock.report.look import Chart

NAMES = {
    "tokens_per_s": "output tokens/s",
    "ttft": "time to first token",
    "tpot": "time per output token",
    "peak_bytes": "peak memory",
    "cost": "cost of a million output tokens",
}
_BETTER = {"tokens_per_s": 1, "ttft": -1, "tpot": -1, "peak_bytes": -1, "cost": -1}
_KINDS = {"better": look.ACCENT[0], "worse": look.WARN[0], "chance could do it": look.MUTED[0]}


def kind(metric: str, ratio: float, differs: bool) -> str:
    """What a difference means to who serves."""
    if not differs:
        return "chance could do it"
    return "better" if (ratio > 1) == (_BETTER[metric] > 0) else "worse"


def flags(found: Launched, width: int, height: int) -> Chart | None:
    """Each flag's ratios with their intervals, metric by metric."""
    rows: list[dict[str, Any]] = [
        {
            "name": f"{one.flag}: {NAMES[d.metric]}",
            "x": d.ratio,
            "low": d.ci95[0] if d.ci95 else d.ratio,
            "high": d.ci95[1] if d.ci95 else d.ratio,
            "said": f"{d.ratio:.3g} x",
            "kind": kind(d.metric, d.ratio, d.differs),
        }
        for one in found.flags
        for d in one.differences
    ]
    if not rows:
        return None
    base = alt.Chart(look.data(rows)).encode(
        y=alt.Y(
            "name:N",
            sort=[row["name"] for row in rows],
            title=None,
            axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=round(0.55 * width)),
        ),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(_KINDS), range=list(_KINDS.values())),
            legend=alt.Legend(title=None, orient="bottom", labelColor=look.MUTED[0]),
        ),
    )
    # An interval of two rounds may reach anywhere: the axis shows the ratios, and cuts it.
    low, high = min(r["x"] for r in rows) / 1.4, max(r["x"] for r in rows) * 1.8
    scale = alt.Scale(type="log", domain=[min(low, 0.7), max(high, 1.4)], nice=False)
    axis = alt.Axis(tickCount=5, format=look.ROUND)
    x = alt.X("x:Q", title="with the flag, times without", scale=scale, axis=axis)
    rule = alt.Chart(look.data([{"x": 1.0}])).mark_rule(strokeDash=[4, 3], color=look.MUTED[0])
    return look.dress(
        alt.layer(
            rule.encode(x=x),
            base.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q"), x2="high:Q"),
            base.mark_circle(size=60, opacity=1).encode(x=x),
            base.mark_text(dy=-9, fontSize=11).encode(
                x=x, text="said:N", color=alt.value(look.INK[0])
            ),
            title="geometric mean over rounds, 95 % interval",
        ),
        width,
        max(height, 90 + 30 * len(rows)),
    )
