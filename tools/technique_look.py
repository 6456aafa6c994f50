"""What a picture of docs/techniques/ is made of: lines over something, or dots with ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from penstock.report import look

Rows = list[dict[str, Any]]

WIDTH, HEIGHT = 440, 260  # of a panel, labels included
_ROW = 24  # pixels of a row of dots
_COLOURS = (look.ACCENT[0], look.OTHER[0], look.MUTED[0], look.WARN[0], "#63a9b8", "#c4a15a")
_DASH = [4, 3]
_EXACTLY = ",.6~g"  # a tick's label, where ticks stand at what was measured


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of `y` over `x`, one for each `name`; `low` and `high` where a row has them.

    `even` is the value at which a technique neither gains nor loses; `dashed` names
    the lines that are drawn so.
    """

    says: str
    along: str
    rows: Rows
    even: float | None = None
    log_x: bool = True
    log_y: bool = False
    dashed: Sequence[str] = field(default=())

    def chart(self) -> look.Chart:
        """The panel, drawn."""
        places = sorted({row["x"] for row in self.rows})
        x = alt.X(
            "x:Q",
            title=self.along,
            scale=alt.Scale(type="log", base=2, nice=False, padding=12)
            if self.log_x
            else alt.Scale(zero=False, nice=False, padding=12),
            axis=alt.Axis(
                values=places,
                format=_EXACTLY,
                grid=False,
                labelOverlap=True,
            ),
        )
        ends = [row[end] for row in self.rows for end in ("low", "y", "high") if end in row]
        scale = (
            look.axis([{"y": end} for end in ends], "y")
            if self.log_y
            else {
                "scale": alt.Scale(zero=min(ends) < 0.65 * max(ends), nice=True),
                "axis": alt.Axis(tickCount=5, format=look.ROUND),
            }
        )
        base = alt.Chart(look.data(self.rows)).encode(x=x, color=_colour(_names(self.rows)))
        lines = base.mark_line(strokeWidth=2).encode(
            y=alt.Y("y:Q", title=None, **scale),
            strokeDash=alt.condition(
                alt.FieldOneOfPredicate(field="name", oneOf=list(self.dashed)),
                alt.value(_DASH),
                alt.value([1, 0]),
            ),
        )
        layers = [lines, base.mark_circle(size=40, opacity=1).encode(y="y:Q")]
        if any("low" in row for row in self.rows):
            layers.insert(0, base.mark_rule(opacity=0.45).encode(y="low:Q", y2="high:Q"))
        if self.even is not None:
            level = alt.Chart(look.data([{"y": self.even}])).mark_rule(
                strokeDash=_DASH, color=look.INK[0], opacity=0.6
            )
            layers.insert(0, level.encode(y="y:Q"))
        return look.dress(alt.layer(*layers, title=self.says), WIDTH, HEIGHT)


@dataclass(frozen=True, kw_only=True)
class Dots:
    """A dot for each `name` at `x`, with its range from `low` to `high`."""

    says: str
    along: str
    rows: Rows

    def chart(self) -> look.Chart:
        """The panel, drawn."""
        names = _names(self.rows)
        base = alt.Chart(look.data(self.rows)).encode(
            y=alt.Y(
                "name:N",
                sort=names,
                title=None,
                axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=WIDTH // 2),
            ),
            color=alt.value(look.ACCENT[0]),
        )
        x = alt.X("x:Q", title=self.along, axis=alt.Axis(tickCount=5, format=look.ROUND))
        layers = alt.layer(
            base.mark_rule(strokeWidth=2, opacity=0.6).encode(x="low:Q", x2="high:Q"),
            base.mark_circle(size=56, opacity=1).encode(x=x),
            title=self.says,
        )
        return look.dress(layers, WIDTH, max(HEIGHT, 90 + _ROW * len(names)))


Panel = Lines | Dots


def png(panels: Sequence[Panel]) -> bytes:
    """Panels side by side, on paper, as a PNG."""
    charts = [look.bare(panel.chart()) for panel in panels]
    drawn = alt.hconcat(*charts, spacing=48).resolve_scale(color="independent")
    return look.png(look.on_paper(drawn))


def point(name: str, x: float, y: float) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y}


def spread(name: str, x: float, figure: Mapping[str, float]) -> dict[str, Any]:
    """A median and its range."""
    return point(name, x, figure["median"]) | {"low": figure["min"], "high": figure["max"]}


def dot(name: str, figure: Mapping[str, float]) -> dict[str, Any]:
    return {"name": name, "x": figure["median"], "low": figure["min"], "high": figure["max"]}


def loss(name: str, found: Mapping[str, Any], along: str = "x") -> dict[str, Any]:
    """Held-out loss over the original in percent, with its interval."""
    low, high = (100 * end for end in found["loss_over_original_ci95"])
    return {"name": name, along: 100 * found["loss_over_original"], "low": low, "high": high}


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))


def _colour(names: Sequence[str]) -> alt.Color:
    legend = alt.Legend(
        title=None,
        orient="bottom",
        columns=2,
        labelLimit=0,
        labelColor=look.MUTED[0],
        symbolType="stroke",
        symbolOpacity=1,
    )
    return alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(names), range=list(_COLOURS[: len(names)])),
        legend=legend if len(names) > 1 else None,
    )
