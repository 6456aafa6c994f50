"""A simulation in the terminal and as a picture: load, queue, replicas and waits over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
from rich.console import Console
from rich.table import Table

from penstock.report import look
from penstock.simulate import Simulated

_SLICES = 160
_WIDTH, _HEIGHT = 860, 90
_SIDES: tuple[tuple[Literal["left", "right"], int], ...] = (("right", -6), ("left", 6))
_Rows = list[dict[str, Any]]


def picture(result: Simulated, path: Path) -> None:
    """Write panels over time as a PNG; raises `ValueError` where no request was sent."""
    if not len(result.table):
        raise ValueError("nothing to draw: no request was sent")
    told = {series.name: series for series in result.series}
    lines: list[tuple[str, dict[str, _Rows]]] = [
        ("requests/s", {"wanted": _rate(result, "asked_ns"), "ended": _rate(result, "end_ns")}),
        ("requests", {name: _told(told[name], result) for name in ("running", "waiting")}),
        ("replicas that serve", {"": _told(told["replicas"], result)}),
        ("% of the KV pool held", {"": _told(told["kv_usage"], result, 100)}),
        ("s to the first token", {"p50": _waits(result, 0.5), "p95": _waits(result, 0.95)}),
    ]
    panels = [
        _panel(title, rows, result.end_ns * 1e-9, last=title == lines[-1][0])
        for title, rows in lines
    ]
    figures = result.summary()
    head = look.head(_title(figures), _said(figures), subtitlePadding=6, offset=16)
    drawn = alt.vconcat(*panels, spacing=12, title=head)
    path.write_bytes(look.png(look.on_paper(drawn)))


def show(figures: dict[str, Any], wall_s: float, console: Console) -> None:
    """Print the figures of a simulation."""
    console.print()
    console.print(_title(figures), style="bold", markup=False)
    for line in _said(figures):
        console.print(line, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "mean", "p50", "p90", "p95", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    for name, label in (
        ("ttft", "time to first token, s"),
        ("tpot", "time per output token, s"),
        ("e2e", "whole answer, s"),
        ("queue", "until its prompt is begun, s"),
    ):
        values = (figures[name][key] for key in ("mean", "p50", "p90", "p95", "p99"))
        table.add_row(label, *("-" if value is None else f"{value:.4g}" for value in values))
    console.print(table)
    for slo, share in figures["slo"].items():
        console.print(f"{slo}: met by {share:.2%}", markup=False)
    if (batch := figures["batch"]) is not None:
        console.print(
            f"batch jobs in the gaps: {batch['finished']:,} finished, "
            f"{batch['output_tokens_per_s']:,.0f} output tokens/s",
            markup=False,
        )
    for note in figures["notes"]:
        console.print(f"Note: {note}", markup=False)
    console.print(f"simulated in {wall_s:.1f} s", style="dim")


def _title(figures: dict[str, Any]) -> str:
    requests = figures["requests"]
    return f"{figures['fleet']}: {requests['sent']:,} requests in {figures['seconds']:,.0f} s"


def _said(figures: dict[str, Any]) -> list[str]:
    requests = figures["requests"]
    ends = f"{requests['finished']:,} finished, {requests['cancelled']:,} cancelled, "
    ends += f"{requests['failed']:,} failed ({requests['refused']:,} refused with 429)"
    busy = [one["busy"] for one in figures["replicas"] if one["paid_s"]]
    return [
        f"{ends}; {figures['output_throughput']:,.0f} output and "
        f"{figures['input_throughput']:,.0f} prompt tokens/s, "
        f"{figures['cached_share']:.0%} of prompt tokens from the cache",
        f"{figures['replica_hours']:,.2f} replica hours, busy {np.mean(busy or [0]):.0%} of them; "
        f"{figures['preemptions']:,} preemptions, {requests['retried']:,} taken up by another "
        "replica",
    ]


def _edges(result: Simulated) -> Any:
    return np.linspace(0, max(result.end_ns, 1), _SLICES + 1)


def _rate(result: Simulated, column: str) -> _Rows:
    times = result.column(column)
    edges = _edges(result)
    counts, _ = np.histogram(times[~np.isnan(times)], edges)
    seconds = (edges[1] - edges[0]) * 1e-9
    middles = (edges[:-1] + edges[1:]) * 0.5e-9
    return _rows(middles, counts / seconds)


def _told(series: Any, result: Simulated, scale: float = 1.0) -> _Rows:
    at, values = np.array(series.at_ns) * 1e-9, np.array(series.values, dtype=float) * scale
    inside = at <= result.end_ns * 1e-9
    step = max(1, int(inside.sum()) // (2 * _SLICES))
    return _rows(at[inside][::step], values[inside][::step])


def _waits(result: Simulated, share: float) -> _Rows:
    asked, waits = result.column("asked_ns"), result.ttft_s
    edges = _edges(result)
    place = np.clip(np.digitize(asked, edges) - 1, 0, _SLICES - 1)
    known = ~np.isnan(waits)
    rows = []
    for i in np.unique(place[known]).tolist():
        middle = (edges[i] + edges[i + 1]) * 0.5e-9
        rows.append({"t": middle, "v": float(np.quantile(waits[known & (place == i)], share))})
    return rows


def _rows(times: Any, values: Any) -> _Rows:
    return [
        {"t": float(when), "v": float(value)} for when, value in zip(times, values, strict=True)
    ]


def _panel(title: str, lines: dict[str, _Rows], seconds: float, *, last: bool) -> Any:
    scale = 3600.0 if seconds > 3 * 3600 else 1.0
    unit = "hours" if scale > 1 else "seconds"
    x = alt.X(
        "t:Q",
        title=unit if last else None,
        axis=alt.Axis(labels=last, format=look.ROUND),
        scale=alt.Scale(domain=[0, seconds / scale], nice=False),
    )
    layers = []
    # Names stand at the highest value, to its left and right, lest they meet.
    for (name, rows), colour, (side, away) in zip(
        lines.items(), (look.ACCENT, look.OTHER), _SIDES, strict=False
    ):
        points = [{"t": row["t"] / scale, "v": row["v"]} for row in rows]
        base = alt.Chart(look.data(points))
        y = alt.Y("v:Q", title=None, axis=alt.Axis(tickCount=3, format=look.ROUND))
        layers.append(base.mark_line(color=colour[0], strokeWidth=1.4).encode(x=x, y=y))
        if name and points:
            top = max(points, key=lambda row: row["v"])
            layers.append(
                alt.Chart(look.data([{**top, "name": name}]))
                .mark_text(dy=-7, dx=away, align=side, fontSize=11, color=colour[0])
                .encode(x=x, y=y, text="name:N")
            )
    return look.bare(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title))
