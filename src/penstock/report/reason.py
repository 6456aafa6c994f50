"""Accuracy against time and cost: in the terminal, as one HTML file, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.table import Table

from penstock.plan.reason.trade import Engine, Share, Spent, Trade
from penstock.record.sentences import number
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import reason as figures
from penstock.report.table import NONE, duration, figure, percent

RIGHT = ("majority", "95 %", "gain", "95 %", "one right", "95 %", "tokens")
NOTE = (
    "Gains are over the fewest samples, in points. Intervals are over questions: Wilson's for "
    "shares, Student's for differences, which are taken question by question and so can be told "
    "from nothing where the shares' intervals overlap. Fewer samples than were drawn are taken "
    "from them at random, without bias. “One right” is what a verifier that never errs would reach."
)

# Each figure's colours and dashes mean something else.
_APART: dict[str, Any] = {"color": "independent", "strokeDash": "independent"}


def show(found: Trade, console: Console) -> None:
    """Print the trade."""
    console.print()
    for sentence in sentences(found):
        paragraph(console, sentence)
    for name, columns, rows in tables(found):
        console.print()
        paragraph(console, name, "cyan")
        console.print(_grid(columns, rows))
    console.print()
    paragraph(console, assumed(found), "dim")
    paragraph(console, NOTE, "dim")
    paragraph(console, conditions(found), "dim")


def sentences(found: Trade) -> Iterator[str]:
    """What matters most, in words."""
    few, most = found.quality[0], found.quality[-1]
    if found.questions < found.asked:
        yield f"Interrupted: {found.questions} of {found.asked} questions were asked."
    said = "One sample is" if few.samples == 1 else f"The majority of {few.samples} samples is"
    yield (
        f"{said} right in {percent(few.majority.value)} of {found.questions} questions "
        f"({_between(few.majority)}), one greedy answer in {percent(found.greedy.value)}."
    )
    if most is few:
        return
    yield (
        f"The majority of {most.samples} is right in {percent(most.majority.value)} "
        f"({_between(most.majority)}), {_gain(most.gain, most.gain_ci95)} over "
        f"{_samples(few.samples)} and {_gain(most.over_greedy, most.over_greedy_ci95)} over the "
        f"greedy answer; {percent(most.any_right.value)} of the questions have a right answer "
        f"among their {most.samples}, which is as far as any way of choosing could get."
    )
    here, *others = found.engines
    ends = here.spent[0], here.spent[-1]
    if ends[0].samples < ends[1].samples:
        yield (
            f"This engine takes {duration(ends[0].seconds)} for {_samples(ends[0].samples)} of a "
            f"question and {duration(ends[1].seconds)} for {ends[1].samples} at once: "
            f"{number(ends[1].samples / ends[0].samples)} times the samples in "
            f"{number(ends[1].seconds / ends[0].seconds)} times the time."
        )
    if len(others) > 1:
        yield _faster(found, others[0], others[-1])


def _faster(found: Trade, slow: Engine, fast: Engine) -> str:
    """What the faster engine makes of the time in which the slower gives its fewest samples."""
    first = slow.spent[0]
    more = fast.within(first.seconds)
    assert more is not None  # it takes less for as many
    had, has = (found.at(n).majority.value for n in (first.samples, more.samples))
    return (
        f"In the {duration(first.seconds)} that {slow.name} take for {_samples(first.samples)} "
        f"({percent(had)} right), {fast.name} make {_samples(more.samples)} ({percent(has)})."
    )


def tables(found: Trade) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, columns but the first, and rows, each of which begins with a number of samples."""
    engines = [engine.name for engine in found.engines]
    yield "Questions answered right", RIGHT, list(_quality(found))
    yield "Time of a question", engines, list(_times(found))
    if found.price is not None:
        columns = [figures.ANYWHERE] if found.cost_alike else engines
        yield f"Cost of 1,000 questions, at {found.price}", columns, list(_costs(found))


def _quality(found: Trade) -> Iterator[list[str]]:
    for q in found.quality:
        first = q is found.quality[0]
        yield [
            f"{q.samples:,}",
            percent(q.majority.value),
            _range(q.majority),
            NONE if first else _points(q.gain),
            NONE if q.gain_ci95 is None else "…".join(_points(end) for end in q.gain_ci95),
            percent(q.any_right.value),
            _range(q.any_right),
            figure(q.output_tokens),
        ]


def _times(found: Trade) -> Iterator[list[str]]:
    for q in found.quality:
        spent = (_spent(engine, q.samples) for engine in found.engines)
        yield [f"{q.samples:,}", *(NONE if s is None else duration(s.seconds) for s in spent)]


def _costs(found: Trade) -> Iterator[list[str]]:
    engines = [found.widest] if found.cost_alike else found.engines
    for q in found.quality:
        spent = (_spent(engine, q.samples) for engine in engines)
        yield [
            f"{q.samples:,}",
            *(NONE if s is None or s.cost is None else figure(1000 * s.cost) for s in spent),
        ]


def _spent(engine: Engine, samples: int) -> Spent | None:
    return next((s for s in engine.spent if s.samples == samples), None)


def assumed(found: Trade) -> str:
    """What the times of engines rest on."""
    said = "This engine was timed on questions alone in it, all samples of one at once."
    if len(found.engines) > 1:
        firsts = ", ".join(f"{duration(e.first_s)} at {e.name}" for e in found.engines[1:])
        said += (
            " The others' speed is assumed, and is what one question gets with all its samples "
            f"together; its first token is taken to come after {firsts}."
        )
    return said


def conditions(found: Trade) -> str:
    """Under which conditions the figures hold."""
    model = found.model
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    return (
        f"{model.name}: {model.parameters / 1e6:,.1f} M parameters, {model.precision}, "
        f"{model.device}, {threads}; {found.tasks}; temperature {found.temperature:g}, "
        f"seed {found.seed}; prompts of {found.prompt_tokens:,.0f} tokens, answers of "
        f"{found.answer_tokens:,.1f}."
    )


def write_png(found: Trade, path: Path) -> None:
    """Write the figures as one picture. Raises `OSError` where `path` cannot be written."""
    beside = {"width": 450, "height": 280}
    pair = [figures.accuracy(found, **beside), figures.cost(found, **beside)]
    below = [look.bare(chart) for chart in pair if chart is not None]
    rows = [look.bare(figures.budget(found, 985, 320))]
    if below:
        rows.append(alt.hconcat(*below, spacing=48).resolve_scale(**_APART))
    lines = look.wrapped((*sentences(found), conditions(found)), 165)
    whole = alt.vconcat(*rows, spacing=28, title=look.head(title(found), lines))
    drawn = look.on_paper(whole.resolve_scale(**_APART))
    path.write_bytes(look.png(drawn))


def write_html(found: Trade, path: Path) -> None:
    """Write the trade as one self-contained page. Raises `OSError` where it cannot."""
    page = html.page(
        "reason.html.jinja",
        title=title(found),
        sentences=list(sentences(found)),
        figures=html.drawn(
            html.figure("Right answers by samples", "accuracy", figures.accuracy, found),
            html.figure("Right answers by time", "budget", figures.budget, found),
            html.figure("Right answers by cost", "cost", figures.cost, found),
        ),
        tables=list(tables(found)),
        notes=[assumed(found), NOTE, conditions(found)],
        palette=look.palette(max(len(found.engines) - 1, 1)),
    )
    path.write_text(page, encoding="utf-8")


def title(found: Trade) -> str:
    """What the report is about."""
    return f"What more samples buy: {found.model.name}"


def _grid(columns: Sequence[str], rows: Sequence[list[str]]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("  samples", justify="right", no_wrap=True)
    for name in columns:
        grid.add_column(name, justify="right", no_wrap=True)
    for first, *cells in rows:
        grid.add_row(first, *cells)
    return grid


def _between(share: Share) -> str:
    if share.ci95 is None:
        return NONE
    low, high = (f"{100 * end:.1f}" for end in share.ci95)
    return f"{low} to {high}"


def _range(share: Share) -> str:
    return NONE if share.ci95 is None else "–".join(f"{100 * end:.1f}" for end in share.ci95)


def _gain(gain: float, between: Sequence[float] | None) -> str:
    if between is None:
        return f"{_points(gain)} points"
    low, high = between
    clear = "" if low > 0 or high < 0 else ", which chance could do"
    return f"{_points(gain)} points ({_points(low)} to {_points(high)}{clear})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _samples(count: int) -> str:
    return "one sample" if count == 1 else f"{count:,} samples"
