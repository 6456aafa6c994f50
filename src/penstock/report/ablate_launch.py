"""Flags of another server, ablated: in the terminal, as one HTML file and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import altair as alt
from rich.console import Console
from rich.table import Table

from penstock.ablate.launch import Difference, Launched
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import ablate_launch as figures
from penstock.report.figures.ablate_launch import NAMES, kind
from penstock.report.table import NONE, duration, figure
from penstock.report.terminal import literal

COLUMNS = ("metric", "without", "with", "ratio", "95 %", "")


def sentences(found: Launched) -> Iterator[str]:
    """What each flag does to throughput and to who waits, in words."""
    for one in found.flags:
        if one.cannot is not None:
            yield f"{one.flag} cannot be served: {one.cannot}"
            continue
        known = {d.metric: d for d in one.differences}
        said = [
            f"{NAMES[metric]} {known[metric].ratio:.3g} x{_between(known[metric])}"
            for metric in ("tokens_per_s", "ttft", "tpot")
            if metric in known
        ]
        yield f"{one.flag}: {', '.join(said)}."


def rows(found: Launched) -> list[list[str]]:
    """A row for each flag and metric."""
    return [
        [
            one.flag,
            NAMES[d.metric],
            _value(d.metric, d.base),
            _value(d.metric, d.value),
            f"{d.ratio:.3g} x",
            NONE if d.ci95 is None else " to ".join(f"{end:.3g}" for end in d.ci95),
            kind(d.metric, d.ratio, d.differs),
        ]
        for one in found.flags
        for d in one.differences
    ]


def conditions(found: Launched) -> Iterator[str]:
    """Under which conditions the figures hold, a line each."""
    yield f"command: {found.command}"
    for name, value in found.conditions.items():
        yield f"{name.replace('_', ' ')}: {value}"


def show(found: Launched, console: Console) -> None:
    """Print sentences, differences, notes and conditions."""
    console.print()
    for sentence in sentences(found):
        paragraph(console, sentence)
    for one in found.flags:
        console.print()
        paragraph(console, one.flag, "cyan")
        console.print(_grid([cells[1:] for cells in rows(found) if cells[0] == one.flag]))
    console.print()
    for note in found.notes:
        paragraph(console, note)
    for line in conditions(found):
        paragraph(console, line, "dim")


def _grid(cells: list[list[str]]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in COLUMNS:
        left = name in ("metric", "")
        grid.add_column(
            f"  {name}" if name == "metric" else name, justify="left" if left else "right"
        )
    for first, *others in cells:
        grid.add_row(f"  {first}", *others)
    return grid


def write_png(found: Launched, path: Path) -> None:
    """Write the differences as one picture. Raises `OSError` where it cannot."""
    chart = figures.flags(found, 900, 200)
    if chart is None:
        raise OSError(f"{path}: no flag could be served, so there is nothing to draw")
    lines = look.wrapped(map(literal, sentences(found)), 150)
    lines += look.wrapped([literal("; ".join(conditions(found)))], 170)
    head = look.head(title(found), lines, subtitlePadding=3)
    path.write_bytes(look.png(look.on_paper(alt.vconcat(look.bare(chart), title=head))))


def write_html(found: Launched, path: Path) -> None:
    """Write the same as one self-contained page; all of it is escaped.

    Raises `OSError` where it cannot.
    """
    page = html.page(
        "ablate.html.jinja",
        title=title(found),
        mark="ablate --launch",
        sentences=list(sentences(found)),
        figures=html.drawn(html.figure("Flag by flag", "flags", figures.flags, found)),
        tables=[("Differences", ("flag", *COLUMNS), rows(found))],
        notes=found.notes,
        conditions=list(conditions(found)),
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def title(found: Launched) -> str:
    """What the report is about."""
    return f"What flags give: {found.conditions.get('model', 'a server')}"


def _between(one: Difference) -> str:
    if one.ci95 is None:
        return ""
    low, high = one.ci95
    chance = "" if one.differs else ", which chance could do"
    return f" ({low:.3g} to {high:.3g}{chance})"


def _value(metric: str, value: float) -> str:
    if metric in ("tokens_per_s", "cost"):
        return figure(value)
    return f"{figure(value / 1e9)} GB" if metric == "peak_bytes" else duration(value)
