"""A compressed checkpoint in the terminal, as a page and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.compress.run import Compressed, Figures
from penstock.report import html, look
from penstock.report.figures import compress as figures
from penstock.report.terminal import literal


def sentences(made: Compressed) -> Iterator[str]:
    """What was done, what it gained and what it lost, in words."""
    before, after = made.before, made.after
    yield f"{made.model}: " + "; then ".join(step.title for step in made.steps) + "."
    yield (
        f"On disk it has {_size(after.file_bytes)} in place of {_size(before.file_bytes)}; a step "
        f"reads {_size(after.step_bytes)} of weights in place of {_size(before.step_bytes)}."
    )
    for was, now in zip(before.speed[:1], after.speed[:1], strict=True):
        yield (
            f"One sequence alone is decoded at {now.median:,.0f} tokens/s in place of "
            f"{was.median:,.0f} ({now.median / was.median:.2f} x)."
        )
    for was, now in zip(before.reading, after.reading, strict=True):
        yield (
            f"A prompt is read at {now.median:,.0f} tokens/s in place of {was.median:,.0f} "
            f"({now.median / was.median:.2f} x)."
        )
    if before.quality is None or after.quality is None:
        yield "Quality was not measured."
        return
    lost, ends = after.quality.lost(before.quality)
    between = f", 95 % interval {ends[0]:+.2%} to {ends[1]:+.2%}" if ends else ""
    yield (
        f"Held-out loss went from {before.quality.loss:.4f} to {after.quality.loss:.4f} nats a "
        f"token ({lost:+.2%}{between})."
    )


def rows(made: Compressed) -> list[dict[str, Any]]:
    """Every measure before and after, as numbers and as they are shown."""
    found = [_row(name, *values) for name, values in _measures(made.before, made.after)]
    return [row for row in found if row["before"] is not None]


def _measures(
    before: Figures, after: Figures
) -> Iterator[tuple[str, tuple[float | None, float | None, str]]]:
    yield "parameters, M", (before.parameters / 1e6, after.parameters / 1e6, ",.1f")
    yield "layers", (before.layers, after.layers, ",.0f")
    yield "on disk, MB", (before.file_bytes / 1e6, after.file_bytes / 1e6, ",.1f")
    yield "read in a step, MB", (before.step_bytes / 1e6, after.step_bytes / 1e6, ",.1f")
    for was, now in zip(before.speed, after.speed, strict=True):
        name = "tokens/s, alone" if now.sequences == 1 else f"tokens/s, {now.sequences} at once"
        yield name, (was.median, now.median, ",.0f")
    for was, now in zip(before.reading, after.reading, strict=True):
        yield "tokens/s of a prompt", (was.median, now.median, ",.0f")
    was_worth, worth = before.quality, after.quality
    if was_worth is None or worth is None:
        return
    yield "held-out loss, nats", (was_worth.loss, worth.loss, ".4f")
    yield "KL to the original, nats", (0.0, worth.kl, ".5f")
    yield "doctests right", (was_worth.doctests_right, worth.doctests_right, ".1%")


def _row(name: str, before: float | None, after: float | None, form: str) -> dict[str, Any]:
    if before is None or after is None:
        return {"measure": name, "before": None}
    change = f"{after / before - 1:+.2%}" if before else ""
    return {
        "measure": name,
        "before": before,
        "after": after,
        "was": format(before, form),
        "said": format(after, form),
        "change": change,
    }


def conditions(made: Compressed) -> Iterator[str]:
    """Under which conditions the figures hold, a line each."""
    yield f"before in {made.before.precision}, after in {made.after.precision}"
    for name, value in made.conditions.items():
        yield f"{name.replace('_', ' ')}: {value}"


def show(made: Compressed, console: Console) -> None:
    """Print sentences, the table, what is to be known, the conditions."""
    console.print()
    for sentence in sentences(made):
        console.print(Padding(Text(literal(sentence)), (0, 0, 0, 2)))
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("", no_wrap=True)
    for title in ("before", "after", "change"):
        grid.add_column(title, justify="right", no_wrap=True)
    for row in rows(made):
        grid.add_row(f"  {row['measure']}", row["was"], row["said"], row["change"])
    console.print()
    console.print(grid)
    console.print()
    for note in made.notes:
        console.print(Padding(Text(note), (0, 0, 0, 2)))
    for line in conditions(made):
        console.print(Padding(Text(literal(line), "dim"), (0, 0, 0, 2)))
    console.print(Padding(Text(f"Written to {literal(made.out)}"), (1, 0, 1, 2)))


def write_png(made: Compressed, path: Path) -> None:
    """Write before beside after, and what each technique saw. Raises `OSError` where it cannot."""
    charts = [figures.change(rows(made), 560, 300)]
    charts += [chart for _, chart in _details(made, 560, 300)]
    pairs = [
        alt.hconcat(*(look.bare(chart) for chart in charts[at : at + 2]), spacing=48)
        for at in range(0, len(charts), 2)
    ]
    head = look.head(f"{made.model}, compressed", list(sentences(made)), subtitlePadding=3)
    whole = alt.vconcat(*pairs, spacing=28, title=head).resolve_scale(x="independent")
    path.write_bytes(look.png(look.on_paper(whole)))


def write_html(made: Compressed, path: Path) -> None:
    """Write the same as one self-contained page. Raises `OSError` where it cannot."""
    page = html.page(
        "compress.html.jinja",
        made=made,
        sentences=list(sentences(made)),
        rows=rows(made),
        conditions=list(conditions(made)),
        figures=html.drawn(
            html.figure("Beside the original", "change", figures.change, rows(made)),
            *(
                html.figure(
                    f"{step.title}: {title}", f"detail-{i}-{j}", figures.detail, title, seen
                )
                for i, step in enumerate(made.steps)
                for j, (title, seen) in enumerate(step.details.items())
            ),
        ),
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def _details(made: Compressed, width: int, height: int) -> Iterator[tuple[str, look.Chart]]:
    for step in made.steps:
        for title, seen in step.details.items():
            if (chart := figures.detail(title, seen, width, height)) is not None:
                yield title, chart


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
