"""The figures of a sweep over KV pools: hit rate, throughput and waits, over one memory axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from penstock.plan.cache import Sweep
from penstock.plan.knee import Pool
from penstock.report import look
from penstock.report.look import Chart

Rows = list[dict[str, Any]]


def hits(swept: Sweep, width: int, height: int) -> Chart:
    """Share of prompt tokens that are hits; dashed: that of a pool that never forgets."""
    most = swept.unbounded.hit_rate
    rows = _rows(swept.pools, [100 * pool.hit_rate for pool in swept.pools])
    y = _from_zero([*rows, {"y": 100 * most}])
    name = f"a pool that never forgets: {most:.1%}"
    bound = alt.Chart(look.data([{"y": 100 * most, "name": name}])).encode(y=y)
    grey = look.MUTED[0]
    return look.dress(
        alt.layer(
            *_marks(swept),
            bound.mark_rule(color=grey, strokeDash=[5, 3], strokeWidth=1.3),
            bound.mark_text(dy=-8, align="left", fontSize=11, color=grey).encode(
                x=alt.value(6), text="name:N"
            ),
            *_line(swept, rows, y, look.ACCENT[0]),
            title="% of prompt tokens that are hits",
        ),
        width,
        height,
    )


def throughput(swept: Sweep, width: int, height: int) -> Chart:
    """Output tokens/s of all replicas."""
    rows = _rows(swept.pools, [pool.output_tokens_per_s for pool in swept.pools])
    return look.dress(
        alt.layer(
            *_marks(swept, named=True),  # here is room below the line
            *_line(swept, rows, _from_zero(rows), look.ACCENT[0]),
            title="output tokens/s",
        ),
        width,
        height,
    )


def waits(swept: Sweep, width: int, height: int) -> Chart | None:
    """Seconds to the first token, median and 99th percentile; None where none came."""
    pools = [pool for pool in swept.pools if pool.ttft_p50_s and pool.ttft_p99_s]
    if not pools:
        return None
    median = _rows(pools, [pool.ttft_p50_s for pool in pools])
    tail = _rows(pools, [pool.ttft_p99_s for pool in pools])
    unit = look.in_unit([*median, *tail], "y")
    y = alt.Y("y:Q", title=None, **look.axis([*median, *tail], "y"))
    layers = []
    for name, rows, colour in (("p50", median, look.ACCENT[0]), ("p99", tail, look.OTHER[0])):
        layers += _line(swept, rows, y, colour)
        last = alt.Chart(look.data([{**rows[-1], "name": name}])).encode(x=_x(swept), y=y)
        layers.append(
            last.mark_text(dy=-10, align="right", fontSize=11, color=colour).encode(text="name:N")
        )
    title = f"{unit} to the first token"
    return look.dress(alt.layer(*_marks(swept), *layers, title=title), width, height)


FIGURES = (
    ("hits", "Hit rate", hits),
    ("throughput", "Throughput", throughput),
    ("waits", "Waits", waits),
)


def _size(pool: Pool) -> float:
    return pool.tokens if pool.gigabytes is None else pool.gigabytes


def _rows(pools: Sequence[Pool], values: Sequence[float | None]) -> Rows:
    return [{"x": _size(pool), "y": value} for pool, value in zip(pools, values, strict=True)]


def _x(swept: Sweep) -> alt.X:
    unit = "tokens" if swept.bytes_per_token is None else "GB"
    rows = [{"x": _size(pool)} for pool in swept.pools]
    return alt.X("x:Q", title=f"{unit} of KV on each replica", **look.axis(rows, "x"))


def _from_zero(rows: Rows) -> alt.Y:
    most = max(row["y"] for row in rows)
    return alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1.18 * most or 1.0], nice=False),
        axis=alt.Axis(tickCount=5, format=look.ROUND),
    )


def _line(swept: Sweep, rows: Rows, y: alt.Y, colour: str) -> list[alt.Chart]:
    base = alt.Chart(look.data(rows)).encode(x=_x(swept), y=y)
    return [
        base.mark_line(color=colour, strokeWidth=1.6),
        base.mark_point(color=colour, filled=True, size=36, opacity=1),
    ]


def _marks(swept: Sweep, *, named: bool = False) -> list[alt.Chart]:
    """The knee, with the gap below it in which it lies, and what the replica holds by itself."""
    marks, x = list[alt.Chart](), _x(swept)
    rules = []
    if swept.held is not None:
        rules.append((swept.held, "the replica holds", look.MUTED[0], 22))
    if (knee := swept.knee) is not None:
        gap = [{"x": _size(knee.below or knee.at), "to": _size(knee.at)}]
        band = alt.Chart(look.data(gap)).mark_rect(color=look.SHADE[0], opacity=1)
        marks.append(band.encode(x=x, x2="to:Q"))
        rules.append((knee.at, "knee", look.INK[0], 8))
    left, right = (math.log(_size(pool)) for pool in (swept.pools[0], swept.pools[-1]))
    rules.sort(key=lambda rule: _size(rule[0]))
    for pool, name, colour, up in rules:
        at = _size(pool)
        # Names stand away from each other, the left one to the left, unless the edge is near.
        place = (math.log(at) - left) / ((right - left) or 1.0)
        side: Any = "right" if place > (0.3 if pool is rules[0][0] else 0.7) else "left"
        base = alt.Chart(look.data([{"x": at, "name": f"{name} {pool.size}"}])).encode(x=x)
        marks.append(base.mark_rule(color=colour, strokeWidth=1.3))
        if named:
            away = -6 if side == "right" else 6
            text = base.mark_text(dx=away, dy=-up, align=side, fontSize=11, color=colour)
            marks.append(text.encode(y=alt.value("height"), text="name:N"))
    return marks
