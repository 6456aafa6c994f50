"""What more samples buy: right answers against their number, against time, against cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt

from penstock.plan.reason.trade import Engine, Share, Spent, Trade
from penstock.report import look
from penstock.report.look import Chart

MAJORITY, ANY = "majority vote", "one of them right"
ANYWHERE = "every engine, by tokens"
_DASHES = {MAJORITY: [1, 0], ANY: [4, 3]}
_LEGEND: dict[str, Any] = {
    "title": None,
    "orient": "bottom",
    "labelLimit": 0,
    "labelColor": look.MUTED[0],
    "symbolType": "stroke",
    "symbolOpacity": 1,
}


def accuracy(found: Trade, width: int, height: int) -> Chart | None:
    """Share of questions answered rightly by samples, with intervals. None with one number."""
    if len(found.quality) < 2:
        return None
    rows = [
        {"x": q.samples, "way": way, **_between(share)}
        for q in found.quality
        for way, share in ((MAJORITY, q.majority), (ANY, q.any_right))
    ]
    x = alt.X(
        "x:Q",
        title="samples of each question",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=[q.samples for q in found.quality], format=look.ROUND, grid=False),
    )
    colour = alt.Color(
        "way:N",
        scale=alt.Scale(domain=list(_DASHES), range=[look.ACCENT[0], look.MUTED[0]]),
        legend=alt.Legend(**_LEGEND),
    )
    base = alt.Chart(look.data(rows)).encode(x=x, color=colour)
    y = _percent(found, "y")
    layers = [
        base.mark_area(opacity=0.14).encode(y=_percent(found, "low"), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=_dash()),
        base.mark_circle(size=40, opacity=1).encode(y=y),
        *_greedy(found, y),
    ]
    title = "% of questions right, with 95 % intervals over questions"
    return look.dress(alt.layer(*layers, title=title), width, height)


def budget(found: Trade, width: int, height: int) -> Chart:
    """Share of questions answered rightly by the time of one question, a line for each engine."""
    rows = _rows(found, lambda spent: spent.seconds)
    unit = look.in_unit(rows, "x")
    title = f"% of questions right by vote; dashed: {ANY}"
    return _lines(found, rows, f"{unit} a question", title, width=width, height=height)


def cost(found: Trade, width: int, height: int) -> Chart | None:
    """The same by the cost of 1,000 questions. None without a price.

    Where tokens are what is paid there is one line for all engines.
    """
    if found.price is None:
        return None
    rows = _rows(found, lambda spent: 1000 * (spent.cost or 0.0))
    if found.cost_alike:
        rows = [{**row, "engine": ANYWHERE} for row in rows if row["engine"] == name(found.widest)]
    if not all(row["x"] > 0 for row in rows):
        return None
    title = f"% of questions right by vote; dashed: {ANY}"
    axis = f"for 1,000 questions, at {found.price}"
    return _lines(found, rows, axis, title, width=width, height=height)


def _rows(found: Trade, along: Callable[[Spent], float]) -> list[dict[str, Any]]:
    return [
        {
            "x": along(spent),
            "y": 100 * share.value,
            "samples": spent.samples,
            "engine": name(engine),
            "way": way,
        }
        for engine in found.engines
        for spent in engine.spent
        for way, share in (
            (MAJORITY, found.at(spent.samples).majority),
            (ANY, found.at(spent.samples).any_right),
        )
    ]


def _lines(
    found: Trade,
    rows: list[dict[str, Any]],
    along: str,
    title: str,
    *,
    width: int,
    height: int,
) -> Chart:
    names = list(dict.fromkeys(row["engine"] for row in rows))
    ramp = [light for light, _ in look.ramp(max(len(found.engines) - 1, 1))]
    colours = [look.INK[0]] if names == [ANYWHERE] else [look.OTHER[0], *ramp]
    x = alt.X("x:Q", title=along, **look.axis(rows, "x"))
    columns = 2 if width < 400 else 4
    base = alt.Chart(look.data(rows)).encode(
        x=x,
        y=_percent(found, "y"),
        color=alt.Color(
            "engine:N",
            sort=None,
            scale=alt.Scale(domain=names, range=colours[: len(names)]),
            legend=alt.Legend(columns=columns, **_LEGEND),
        ),
    )
    layers = [
        base.mark_line(strokeWidth=1.6).encode(strokeDash=_dash(), order=alt.Order("samples:Q")),
        base.mark_circle(size=34, opacity=1),
    ]
    return look.dress(alt.layer(*layers, title=title), width, height)


def name(engine: Engine) -> str:
    """An engine as the legend has it."""
    return f"{engine.name}, measured" if engine.measured else engine.name


def _dash() -> alt.StrokeDash:
    return alt.StrokeDash(
        "way:N",
        scale=alt.Scale(domain=list(_DASHES), range=list(_DASHES.values())),
        legend=None,
    )


def _percent(found: Trade, field: str) -> alt.Y:
    """One scale for all figures of a page, which need not begin at zero: these are no bars."""
    low = min(_between(q.majority)["low"] for q in found.quality)
    high = max(_between(q.any_right)["high"] for q in found.quality)
    domain = [max(0.0, low - 2), min(100.0, high + 2)]
    return alt.Y(
        f"{field}:Q",
        title=None,
        scale=alt.Scale(domain=domain, nice=True),
        axis=alt.Axis(tickCount=6, format=look.ROUND),
    )


def _between(share: Share) -> dict[str, float]:
    low, high = share.ci95 or (share.value, share.value)
    return {"y": 100 * share.value, "low": 100 * low, "high": 100 * high}


def _greedy(found: Trade, y: alt.Y) -> list[alt.Chart]:
    """A line across: one answer, the likeliest tokens."""
    base = alt.Chart(look.data([{"y": 100 * found.greedy.value, "name": "one greedy answer"}]))
    above = found.greedy.value >= found.quality[-1].majority.value
    return [
        base.mark_rule(color=look.INK[0], strokeDash=[2, 3], strokeWidth=1).encode(y=y),
        base.mark_text(
            dy=-8 if above else 9, dx=-4, align="right", fontSize=11, color=look.INK[0]
        ).encode(y=y, x=alt.value("width"), text="name:N"),
    ]
