"""Where a claim stands: against what its hardware allows, and beside what was measured."""

from __future__ import annotations

import math
from typing import Any, Literal

import altair as alt

from penstock.plan.audit.judge import Judged
from penstock.plan.audit.verdict import Audit
from penstock.report import look
from penstock.report.look import Chart

_LABEL = 0.2  # width of a label, as a share of the axis
_COLOURS = {"claimed": look.WARN[0], "ceiling": look.INK[0], "measured": look.ACCENT[0]}
# Where a label stands beside its dot, and how far from it.
_SIDES: tuple[tuple[Literal["left", "right"], int], ...] = (("left", 10), ("right", -10))


def standing(made: Audit, width: int, height: int) -> Chart | None:
    """Tokens/s of the claim, of its ceilings and of the nearest measured points, on one axis.

    Of a ratio the factor beside the most that each reading of its technique
    gives. None where there is nothing to set the figure against.
    """
    ratio = made.claim.unit == "x"
    rows = _ratios(made) if ratio else _rates(made)
    if len(rows) < 2:
        return None
    _place(rows)
    names = [row["name"] for row in rows]
    x = alt.X(
        "x:Q",
        title="times as much" if ratio else "tokens/s",
        **look.axis(rows, "x"),
    )
    y = alt.Y(
        "name:N",
        sort=names,
        title=None,
        axis=alt.Axis(grid=False, ticks=False, domain=False, labelLimit=round(0.6 * width)),
    )
    base = alt.Chart(look.data(rows)).encode(
        y=y,
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())),
            legend=None,
        ),
    )
    claim = alt.Chart(look.data(rows[:1])).mark_rule(
        color=look.WARN[0], strokeDash=[5, 3], strokeWidth=1.3
    )
    bars = base.transform_filter("datum.kind == 'ceiling'")
    dots = base.transform_filter("datum.kind != 'ceiling'")
    return look.dress(
        alt.layer(
            claim.encode(x=x),
            bars.mark_tick(thickness=3, size=16).encode(x=x),
            dots.mark_circle(size=80, opacity=1).encode(x=x),
            *(
                base.transform_filter(f"datum.side == '{side}'")
                .mark_text(dx=dx, align=side, fontSize=11)
                .encode(x=x, text="label:N")
                for side, dx in _SIDES
            ),
            title="dashed: the claim",
        ),
        width,
        max(height, 60 + 34 * len(rows)),
    )


def _place(rows: list[dict[str, Any]]) -> None:
    """Which side of its mark each label goes: towards the middle, and never across the claim."""
    logs = [math.log(row["x"]) for row in rows]
    low, wide = min(logs), max(logs) - min(logs) or 1.0
    claim = (logs[0] - low) / wide
    for row, value in zip(rows, logs, strict=True):
        at = (value - low) / wide
        across = at < claim < at + _LABEL if at <= 0.5 else at - _LABEL < claim < at
        # Altair names the side of the text that is at the mark.
        row["side"] = "left" if (at <= 0.5) != across else "right"


def _rates(made: Audit) -> list[dict[str, Any]]:
    rows = []
    if (one := made.shown) is not None:
        rows = [_row("claimed", "claimed", one.reading.rate), *_ceilings(one)]
    elif made.nearest:
        rows = [_row("claimed", "claimed", made.claim.figure)]
    for near in made.nearest:
        p = near.point
        at = f", {p.concurrency:,} at once" if p.concurrency else ""
        said = f"{p.model} {p.precision}, {p.devices} × {p.device}, {p.prompt:,}/{p.output:,}{at}"
        if said not in [row["name"] for row in rows]:
            rows.append(_row(said, "measured", near.rate))
    return rows


def _ceilings(one: Judged) -> list[dict[str, Any]]:
    found = [
        ("cannot be exceeded, speculation and all", one.sure.rate),
        (f"what {one.ordinary.binds} allows", one.ordinary.rate),
        ("best of what was measured like it, and a quarter", one.limit),
    ]
    if one.evidence.best is None:
        found.pop()
    return [_row(name, "ceiling", rate) for name, rate in found]


def _ratios(made: Audit) -> list[dict[str, Any]]:
    rows = [_row("claimed", "claimed", made.claim.figure)]
    kinds = {True: "measured", False: "ceiling"}
    return rows + [
        _row(one.reading.split(" (")[0], kinds[one.measured], one.factor) for one in made.ratios
    ]


def _row(name: str, kind: str, x: float) -> dict[str, Any]:
    return {"name": name, "kind": kind, "x": x, "label": f"{x:,.3g}" if x < 100 else f"{x:,.0f}"}
