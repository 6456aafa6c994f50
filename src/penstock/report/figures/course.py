"""What happened over the time of one operating point."""

from __future__ import annotations

import altair as alt
import numpy as np

from penstock.record import metrics
from penstock.record.run import Point
from penstock.record.steady import steady_window
from penstock.report import look
from penstock.report.look import Chart

SLICES = 120  # of a timeline


def timeline(point: Point, colour: str, width: int, height: int) -> Chart:
    """Output tokens/s over an operating point, requests in flight below, the window shaded.

    `colour` is the one that this point has in other figures.
    """
    window = steady_window(point)
    length = max(point.end_ns - point.start_ns, 1)
    edges = point.start_ns + length * np.arange(SLICES + 1) / SLICES
    at = (edges[:-1] + edges[1:]) / 2
    pace = metrics.rates(
        metrics.output_arrivals(point.records), point.start_ns, point.start_ns + length, SLICES
    )
    sent = np.sort([r.sent_ns for r in point.records if r.sent_ns is not None])
    ended = np.sort([r.end_ns for r in point.records if r.end_ns is not None])
    flying = np.searchsorted(sent, at, "right") - np.searchsorted(ended, at, "right")
    rows = [
        {"t": float(t - point.start_ns) / metrics.NS_PER_S, "pace": float(v), "flying": int(n)}
        for t, v, n in zip(at, pace, flying, strict=True)
    ]
    shade = [
        {
            "from": (window.start_ns - point.start_ns) / metrics.NS_PER_S,
            "to": (window.end_ns - point.start_ns) / metrics.NS_PER_S,
        }
    ]
    domain = alt.Scale(domain=[0, length / metrics.NS_PER_S], nice=False)
    behind = (
        alt.Chart(look.data(shade))
        .mark_rect(color=look.SHADE[0], opacity=1)
        .encode(x=alt.X("from:Q", scale=domain), x2="to:Q")
    )
    base = alt.Chart(look.data(rows))
    # Both panels have the same room for their labels, so that their times align.
    room = 46
    inner = width - room - 14
    upper = base.mark_line(color=colour, strokeWidth=1.4, interpolate="step").encode(
        x=alt.X("t:Q", title=None, scale=domain, axis=alt.Axis(labels=False, grid=False)),
        y=alt.Y("pace:Q", title=None, axis=_roomy(room, 4)),
    )
    lower = base.mark_line(color=look.MUTED[0], strokeWidth=1.4, interpolate="step").encode(
        x=alt.X("t:Q", title="seconds", scale=domain, axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("flying:Q", title=None, axis=_roomy(room, 2)),
    )
    panels = alt.vconcat(
        alt.layer(behind, upper, title="output tokens/s").properties(
            width=inner, height=round(height * 0.5)
        ),
        alt.layer(behind, lower, title="requests in flight").properties(
            width=inner, height=round(height * 0.18)
        ),
        spacing=8,
    )
    return look.dressed(panels)


def _roomy(room: int, ticks: int) -> alt.Axis:
    return alt.Axis(minExtent=room - 8, maxExtent=room - 8, tickCount=ticks, format=",~r")
