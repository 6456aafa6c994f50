"""An ablation in the terminal, as one HTML file and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import altair as alt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.ablate.result import Ablation, Figure, RungResult, Same, Worth
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import ablate as figures
from penstock.report.figures.ablate import times
from penstock.report.table import NONE, duration, figure, percent
from penstock.report.terminal import literal

COLUMNS = (
    "answers",
    "tokens/s",
    "range",
    "× before",
    "× base",
    "alone ×",
    "TTFT",
    "TPOT",
    "memory, GB",
    "cost of M",
    "loss so far",
    "loss alone",
    "doctests",
    "same texts",
)
# Not in a terminal, and all there is in a narrow one.
LONG = ("answers", "range", "doctests", "same texts")
NARROW = ("tokens/s", "× before", "× base", "TTFT", "TPOT", "loss so far", "loss alone")
WIDE = 120
NOTE = (
    "Every rung is measured beside the one below it, in the same interleaved rounds; “alone” adds "
    "it to the one rung named. A rung that lost is shown and left out of those above it: an "
    "exact one if it lost in every round; a lossy one, or one that takes the place of another, "
    "unless it won in every one. “Loss so far” is of all that was kept up to a rung and the rung, "
    "“loss alone” of a lossy one where it is measured alone. Speed is of one model and quality of "
    "another: never multiply them."
)


def sentences(found: Ablation) -> Iterator[str]:
    """What matters most, in words."""
    top = found.top
    yield (
        f"All that pays, together: {figure(top.tokens_per_s.median)} tokens/s in place of "
        f"{figure(top.base_tokens_per_s.median)} for fp32 with a KV cache, one request at a time: "
        f"{times(top.ratio)} ({_range(top.ratio)}), measured side by side."
    )
    yield (
        f"The steps multiply to {times(top.steps)}: {times(top.exact)} of techniques that change "
        f"no answer, {times(top.lossy)} of those that do. The first of these rests on bf16, in "
        "which our kernels compute: whatever PyTorch's bf16 loses on fp32 is won back in it."
    )
    direct = top.exact_measured
    yield (
        "Measured side by side with the same base, bf16 and the exact ones with nothing else that "
        f"changes answers: {times(direct.ratio)} ({_range(direct.ratio)})."
    )
    if out := [one for one in found.rungs if one.together and not one.together.kept]:
        lost = ", ".join(f"{one.name} ({times(one.together.ratio)})" for one in out if one.together)
        yield f"Measured and left out, for they did not pay on top of the rest here: {lost}."
    last = next((o for o in reversed(found.rungs) if o.together and o.together.kept), None)
    if last is not None and last.quality is not None:
        worth = last.quality
        right = ""
        if worth.doctests_right is not None:
            right = f", and {percent(worth.doctests_right)} of {worth.doctests} doctests are right"
        yield f"With all of it {worth.model} loses {worth.change:+.2%} on held-out text{right}."


def rows(found: Ablation) -> list[list[str]]:
    """A row for each rung, its title first."""
    return [[one.title, *_cells(one)] for one in found.rungs]


def _cells(one: RungResult) -> Iterator[str]:
    yield "same" if one.exact else "changed"
    if one.cannot is not None:
        yield from [NONE] * (len(COLUMNS) - 1)
        return
    together, rate = one.together, one.tokens_per_s
    yield NONE if rate is None else figure(rate.median)
    yield NONE if rate is None else _range(rate)
    yield NONE if together is None else times(together.ratio)
    yield NONE if together is None else times(together.gain) if together.kept else "left out"
    yield NONE if one.alone is None else f"{times(one.alone.ratio)} {one.alone.over}"
    yield duration(None if one.ttft is None else one.ttft.median)
    yield duration(None if one.tpot is None else one.tpot.median)
    yield NONE if one.memory is None else figure(one.memory.peak_bytes / 1e9)
    yield figure(one.cost)
    yield _loss(one.quality)
    yield _loss(one.quality_alone)
    yield percent(None if one.quality is None else one.quality.doctests_right)
    yield _same(one.outputs)


def _loss(worth: Worth | None) -> str:
    return NONE if worth is None else f"{worth.change:+.2%}"


def _same(same: Same | None) -> str:
    return NONE if same is None else f"{same.same} of {same.requests}"


def claims(found: Ablation) -> list[list[str]]:
    """Rung, what was published, what was measured alone, and why that differs."""
    return [
        [
            one.name,
            f"{one.claimed.says} ({one.claimed.source})" if one.claimed.source else NONE,
            NONE if one.alone is None else f"{times(one.alone.ratio)} ({_range(one.alone.ratio)})",
            one.claimed.differs,
        ]
        for one in found.rungs[1:]
    ]


def conditions(found: Ablation) -> Iterator[str]:
    """Under which conditions the figures hold, a line each."""
    for name, value in found.conditions.items():
        yield f"{name.replace('_', ' ')}: {value}"


def show(found: Ablation, console: Console) -> None:
    """Print sentences, ladder, claims, notes and conditions."""
    console.print()
    for sentence in sentences(found):
        paragraph(console, sentence)
    console.print()
    console.print(_ladder(found, console.width))
    console.print()
    console.print(_claims(found))
    console.print()
    for note in [*found.notes, NOTE]:
        paragraph(console, note)
    for line in conditions(found):
        paragraph(console, line, "dim")


def _ladder(found: Ablation, width: int) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("  rung", no_wrap=True)
    chosen = [i for i, name in enumerate(COLUMNS) if name not in LONG]
    if width < WIDE:
        chosen = [i for i in chosen if COLUMNS[i] in NARROW]
    for index in chosen:
        name = COLUMNS[index]
        grid.add_column(name, justify="right", no_wrap=name.startswith("alone"))
    for one in found.rungs:
        cells = list(_cells(one))
        grid.add_row(f"  {one.name}", *(Text(cells[index]) for index in chosen))
    return grid


def _claims(found: Ablation) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("  rung", "claimed", "alone, here", "why"):
        grid.add_column(name)
    for name, says, here, why in claims(found):
        grid.add_row(f"  {name}", Text(says), here, Text(literal(why), "dim"))
    return grid


def write_png(found: Ablation, path: Path) -> None:
    """Write waterfall, techniques alone and curves. Raises `OSError` where it cannot."""
    parts = [figures.waterfall(found, 1010, 320), figures.alone(found, 1010, 300)]
    rows_ = [look.bare(chart) for chart in parts if chart is not None]
    drawn = [
        look.bare(figures.curve(one, 300, 210)).properties(title=f"{one.name}: times {one.over}")
        for one in found.curves
    ]
    rows_ += [alt.hconcat(*drawn[at : at + 3], spacing=34) for at in range(0, len(drawn), 3)]
    lines = look.wrapped(sentences(found), 165)
    lines += look.wrapped(["; ".join(conditions(found)) + "."], 185)
    head = look.head(title(found), lines)
    whole = alt.vconcat(*rows_, spacing=28, title=head)
    path.write_bytes(look.png(look.on_paper(whole.resolve_scale(color="independent"))))


def write_html(found: Ablation, path: Path) -> None:
    """Write the same as one self-contained page. Raises `OSError` where it cannot."""
    page = html.page(
        "ablate.html.jinja",
        title=title(found),
        mark="ablate",
        sentences=list(sentences(found)),
        figures=html.drawn(
            html.figure("Together, rung by rung", "waterfall", figures.waterfall, found),
            html.figure("Each by itself", "alone", figures.alone, found),
            *(
                html.figure(f"{one.title}", f"curve-{one.name}", figures.curve, one)
                for one in found.curves
            ),
        ),
        tables=[
            ("The ladder", ("rung", *COLUMNS), rows(found)),
            ("Claimed and measured", ("rung", "claimed", "alone, here", "why"), claims(found)),
        ],
        notes=[*found.notes, NOTE],
        conditions=list(conditions(found)),
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def title(found: Ablation) -> str:
    """What the report is about."""
    return f"What each technique gives: {found.model}"


def _range(value: Figure) -> str:
    ends: Sequence[float] = (value.low, value.high)
    return " to ".join(figure(end) for end in ends)
