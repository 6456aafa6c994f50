"""The verdict on a claim: in the terminal, as one HTML file, and as a picture.

Claims are written by others: their words are shown literally everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.plan.audit.claim import Claim
from penstock.plan.audit.verdict import Audit
from penstock.record.sentences import number
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures.claim import standing
from penstock.report.terminal import literal

STYLES = {
    "impossible": "bold red",
    "implausible": "red",
    "plausible": "green",
    "underspecified": "yellow",
}
POINTS = ("model", "on", "in/out", "at once", "tokens/s", "of ceiling", "measured with")
_SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_NEEDS = (
    ("reading", "bytes_per_s", "bytes_per_s", "B/s"),
    ("arithmetic", "flops_per_s", "flops_per_s", "flop/s"),
    ("weights", "weight_bytes", "memory_bytes", "B"),
    ("K and V", "kv_bytes", "memory_bytes", "B"),
)


def show(made: Audit, console: Console) -> None:
    """Print the verdict, why, what the figure takes, what was measured near it, what to ask."""
    console.print()
    paragraph(console, f"{made.verdict.upper()}: {figure(made.claim)}", STYLES[made.verdict])
    for sentence in made.why:
        paragraph(console, sentence)
    console.print()
    paragraph(console, "; ".join(f"{k}: {v}" for k, v in conditions(made.claim)), "dim")
    if need := list(needs(made)):
        _table(console, "What it takes", ("", "needed", "there is"), need)
    if made.ratios:
        ratios = [(one.reading, f"{number(one.factor)} ×", one.source) for one in made.ratios]
        _table(console, "What it can give", ("", "at most", "by"), ratios)
    if rows := list(points(made)):
        _table(console, "Measured nearest to it", POINTS[:-1], [row[:-1] for row in rows])
        by = dict.fromkeys(f"{n.point.software} ({n.point.source})" for n in made.nearest)
        paragraph(console, f"Measured with {', '.join(by)}.", "dim")
    if made.questions:
        console.print()
        paragraph(console, "To ask whoever claims it", "cyan")
        for question in made.questions:
            paragraph(console, f"- {question}")
    console.print()


def figure(claim: Claim) -> str:
    """The figure in words, as it was given."""
    if claim.unit == "x":
        return f"{number(claim.figure)} times as much"
    whose = {"user": " to each user", "device": " of each device", "system": " in all"}
    return f"{number(claim.figure)} {claim.unit}{whose.get(claim.whose or '', '')}"


def conditions(claim: Claim) -> Iterator[tuple[str, str]]:
    """What the claim tells and what it leaves open, named."""
    size = f"{claim.parameters / 1e9:g} B parameters" if claim.parameters else None
    running = claim.batch and f"batch of {claim.batch:,}"
    running = running or (claim.concurrency and f"{claim.concurrency:,} at once")
    gained = claim.speculation and f"{claim.speculation:g} tokens gained a step"
    told: dict[str, Any] = {
        "model": claim.model or size or claim.other_model,
        "weights": claim.precision,
        "hardware": claim.hardware or claim.other_hardware,
        "devices": claim.devices,
        "load": running or (claim.user_speed and f"{claim.user_speed:g} tokens/s to each user"),
        "prompt": claim.prompt and f"{claim.prompt:,} tokens",
        "output": claim.output and f"{claim.output:,} tokens",
        "speculation": gained or ("used" if claim.speculative else None),
    }
    if claim.unit == "x":
        told = {"baseline": claim.baseline and (claim.baseline.said or "told"), **told}
    for name, value in told.items():
        yield name, "unknown" if value is None else str(value)


def needs(made: Audit) -> Iterator[tuple[str, str, str]]:
    """What the figure takes beside what its hardware has, as text."""
    there = made.required.get("available", {})
    for name, key, have, unit in _NEEDS:
        if made.required.get(key):
            yield name, scaled(made.required[key], unit), scaled(there.get(have), unit)
    if (sequences := made.required.get("sequences")) is not None:
        yield "at once", f"{sequences:,.0f}", ""
    if (gained := made.required.get("tokens_per_step", 1.0)) > 1:
        yield "tokens a step", number(gained), "1 without speculation"


def points(made: Audit) -> Iterator[tuple[str, ...]]:
    """The nearest measured points as text, under `POINTS`."""
    for near in made.nearest:
        p = near.point
        yield (
            f"{p.model} {p.precision}",
            f"{p.devices} × {p.device}",
            f"{p.prompt:,}/{p.output:,}",
            "all" if p.concurrency is None else f"{p.concurrency:,}",
            number(near.rate),
            f"{100 * near.share:.0f} %",
            p.software,
        )


def scaled(value: float | None, unit: str) -> str:
    """A quantity with the prefix a reader would choose."""
    if value is None:
        return "unknown"
    scale, prefix = next(((s, p) for s, p in _SCALES if value >= s), (1.0, ""))
    return f"{value / scale:,.3g} {prefix}{unit}"


def write_png(made: Audit, path: Path) -> None:
    """Write where the claim stands as a picture.

    Raises `ValueError` where there is nothing to set the figure against, and
    `OSError` where `path` cannot be written.
    """
    chart = standing(made, 860, 120)
    if chart is None:
        raise ValueError("this audit has no picture: nothing can be set against the figure.")
    title = f"{made.verdict.capitalize()}: {literal(figure(made.claim))}"
    lines = look.wrapped(map(literal, (made.claim.text, *made.why)), 130)
    head = look.head(title, lines)
    drawn = look.on_paper(alt.vconcat(look.bare(chart), title=head))
    path.write_bytes(look.png(drawn))


def write_html(made: Audit, path: Path) -> None:
    """Write the audit as one self-contained page. Raises `OSError` where it cannot."""
    page = html.page(
        "audit.html.jinja",
        made=made,
        figure=figure(made.claim),
        conditions=list(conditions(made.claim)),
        needs=list(needs(made)),
        points=list(points(made)),
        columns=POINTS,
        number=number,
        figures=html.drawn(html.figure("Where it stands", "standing", standing, made)),
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> None:
    console.print()
    paragraph(console, title, "cyan")
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, no_wrap=column not in (columns[0], columns[-1]))
    for row in rows:
        grid.add_row(*(Text(literal(cell)) for cell in row))
    console.print(Padding(grid, (0, 0, 0, 2)))
