"""The figures of a plan: cost against load, how near the limits are, replicas over a day."""

from __future__ import annotations

import altair as alt

from penstock.plan.answer import Answer, Fleet
from penstock.record.sentences import number
from penstock.record.slo import parse_slos
from penstock.report import look
from penstock.report.look import Chart

_INK = look.INK[0]  # the page knows it, and swaps it in the dark
_FLEETS = tuple(
    look.COLOURS[name][0] for name in ("accent", "other", "ink", "warn", "muted")
)  # the cheapest first; more are drawn like the last


def cost(answer: Answer, width: int, height: int) -> Chart:
    """Dollars of a million tokens against the load, a line for each fleet; APIs are dashed.

    Each line falls while a replica fills and jumps where another is needed.
    """
    demand = answer.demand
    million = 1e6 / (3600 * demand.tokens * demand.mean_share)
    rows = [
        {"x": rate, "y": usd / rate * million, "name": fleet.name}
        for fleet in answer.fleets
        for rate, usd in fleet.by_load
    ]
    apis = [
        {"y": api.api_per_request / demand.tokens * 1e6, "name": f"{api.name}, list price"}
        for api in answer.api
    ]
    x = alt.X("x:Q", title="requests/s in the busy hour", **look.axis(rows, "x"))
    y = alt.Y("y:Q", title=None, **look.axis([*rows, *apis], "y"))
    lines = alt.Chart(look.data(rows)).encode(x=x, y=y, color=_colour(answer, "name"))
    at = alt.Chart(look.data([{"x": demand.rate, "name": "the demand"}])).encode(x=x)
    dashed = alt.Chart(look.data(apis)).encode(y=y)
    grey = look.MUTED[0]
    return look.dress(
        alt.layer(
            at.mark_rule(color=look.SHADE[0], strokeWidth=6),
            at.mark_text(dx=6, align="left", fontSize=11, color=grey).encode(
                y=alt.value(6), text="name:N"
            ),
            lines.mark_line(strokeWidth=1.6),
            dashed.mark_rule(color=grey, strokeDash=[5, 3], strokeWidth=1.3),
            dashed.mark_text(dy=-7, dx=-4, align="right", fontSize=11, color=grey).encode(
                x=alt.value("width"), text="name:N"
            ),
            title="dollars a million tokens",
        ),
        width,
        height,
    )


def limits(answer: Answer, width: int, height: int) -> Chart:
    """How much of each limit a fleet uses, and of what it carries; at 100 % a limit breaks."""
    rows = [
        {"fleet": fleet.name, "what": what, "x": 100 * share}
        for fleet in answer.fleets
        for what, share in _shares(answer, fleet).items()
    ]
    kinds = list(dict.fromkeys(str(row["what"]) for row in rows))
    shapes = alt.Legend(orient="top", labelColor=_INK, symbolFillColor=_INK, symbolStrokeColor=_INK)
    base = alt.Chart(look.data(rows)).encode(
        x=alt.X("x:Q", title=None, scale=alt.Scale(domain=[0, 105], nice=False)),
        y=alt.Y(
            "fleet:N",
            sort=[fleet.name for fleet in answer.fleets],
            title=None,
            axis=alt.Axis(grid=True, ticks=False),
        ),
        color=_colour(answer, "fleet", legend=False),
        shape=alt.Shape("what:N", sort=kinds, title=None, legend=shapes),
    )
    edge = alt.Chart(look.data([{"x": 100}])).encode(x="x:Q")
    return look.dress(
        alt.layer(
            edge.mark_rule(color=look.MUTED[0], strokeDash=[5, 3], strokeWidth=1.3),
            base.mark_point(size=80, filled=True, opacity=1),
            title="% of each limit that is used, and of the load that is carried",
        ),
        width,
        height,
    )


def _shares(answer: Answer, fleet: Fleet) -> dict[str, float]:
    used = {
        text.partition("<")[0]: fleet.response.limits[text] / parse_slos(text)[0].limit_s
        for text in answer.slo
    }
    return {**used, "load": fleet.utilisation}


def _colour(answer: Answer, field: str, *, legend: bool = True) -> alt.Color:
    names = [fleet.name for fleet in answer.fleets]
    colours = [_FLEETS[min(i, len(_FLEETS) - 1)] for i in range(len(names))]
    return alt.Color(
        f"{field}:N",
        sort=names,
        title=None,
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(orient="top", columns=2, labelLimit=0, labelColor=_INK)
        if legend
        else None,
    )


def replicas(answer: Answer, width: int, height: int) -> Chart | None:
    """Replicas that follow the load over a day or a trace; None without one."""
    over = answer.hours
    if over is None:
        return None
    step_h = over.hours / len(over.replicas)
    rows = [{"x": i * step_h, "y": n} for i, n in enumerate([*over.replicas, over.replicas[-1]])]
    base = alt.Chart(look.data(rows)).encode(
        x=alt.X("x:Q", title="hours", scale=alt.Scale(domain=[0, over.hours], nice=False)),
        y=alt.Y(
            "y:Q",
            title=None,
            scale=alt.Scale(zero=True),
            axis=alt.Axis(tickCount=min(over.peak_replicas, 6)),
        ),
    )
    peak = alt.Chart(look.data([{"y": over.peak_replicas}])).encode(y="y:Q")
    return look.dress(
        alt.layer(
            base.mark_area(interpolate="step-after", color=look.SHADE[0], opacity=1),
            base.mark_line(interpolate="step-after", color=look.ACCENT[0], strokeWidth=1.4),
            peak.mark_rule(color=look.MUTED[0], strokeDash=[5, 3]),
            title=f"replicas; dashed: the fleet that stands, {number(over.peak_replicas)}",
        ),
        width,
        height,
    )


FIGURES = (
    ("cost", "Cost against load", cost),
    ("limits", "How near the limits are", limits),
    ("replicas", "Replicas over the day", replicas),
)
