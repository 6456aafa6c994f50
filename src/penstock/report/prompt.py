"""A shortened prompt in the terminal, as a page and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import altair as alt
from rich.console import Console

from penstock.prompts.breakeven import LONGEST, Bill, BreakEven
from penstock.prompts.run import Found
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import prompt as figures
from penstock.report.table import duration

_WAYS = {
    "surprise": "what {} finds surprising",
    "random": "parts drawn at random",
    "start": "the start",
    "end": "the end",
    "ends": "both ends",
    "stopwords": "all but stop words, as far as it goes",
}


def sentences(found: Found) -> Iterator[str]:
    """What stayed, whether that pays in time, and in money."""
    stayed = (
        f"{found.kept:,} of {found.tokens:,} tokens stay ({found.kept / found.tokens:.0%}): "
        f"{_WAYS[found.rule.way].format(found.model)}, by the {found.rule.by}."
    )
    whole = sum(piece.surprise for piece in found.pieces)
    held = sum(piece.surprise for piece in found.pieces if piece.kept)
    of_it = f" They hold {held / whole if whole else 1:.0%} of the surprise."
    yield stayed + of_it if found.rule.judged else stayed
    if found.break_even is not None:
        yield from _times(found, found.break_even)
    if found.bill is not None:
        yield from _costs(found.bill)


def _times(found: Found, even: BreakEven) -> Iterator[str]:
    times = even.times
    judging = f"{duration(times.score_s)} to judge and " if found.rule.judged else ""
    yield (
        f"Predicted with {found.target}: {duration(times.full_s)} to the first token as it is, "
        f"{judging}{duration(times.short_s)} for what stays: it "
        f"{_verdict(times.saved_s, duration)}."
    )
    if not found.rule.judged:
        yield "Nothing is judged, so whatever goes is saved."
        return
    share = found.kept / found.tokens
    if even.most_kept is None:
        yield "Judging takes as long as the whole prompt: however little stays, it loses."
    else:
        yield f"Break-even at this length: {even.most_kept:.1%} kept; more than that loses."
    if even.least_tokens is None:
        yield f"With {share:.0%} kept it loses at every length up to {LONGEST:,} tokens."
    elif even.least_tokens > 1:
        yield f"With {share:.0%} kept it pays from {even.least_tokens:,} tokens on."
    else:
        yield f"With {share:.0%} kept it pays at every length."


def _verdict(saved: float, figure: Callable[[float], str]) -> str:
    if not saved:
        return "saves nothing"
    return f"{'saves' if saved > 0 else 'LOSES'} {figure(abs(saved))}"


def _costs(bill: Bill) -> Iterator[str]:
    verdict = _verdict(bill.whole - bill.shortened, "{:,.4g}".format)
    yield (
        f"A million such prompts cost {bill.whole:,.4g} as they are"
        + (f", {bill.cached:,} tokens of each from the cache" if bill.cached else "")
        + f", and {bill.shortened:,.4g} shortened: it {verdict}."
    )
    if bill.cached > bill.held:
        yield (
            "A shortened prompt is another one from the first change on, before which the cache "
            f"holds {bill.held or 'no'} tokens: it pays only with less than {bill.most_kept:.0%} "
            f"kept. Shortening only what is not cached costs "
            f"{bill.rest:,.4g}; shortening all of it every time in this way, so that the cache "
            f"holds that, {bill.again:,.4g}."
        )


def show(found: Found, console: Console) -> None:
    """Print the sentences, what is to be known, the conditions."""
    console.print()
    for number, sentence in enumerate(sentences(found)):
        paragraph(console, sentence, "" if number else "bold")
    for note in found.notes:
        paragraph(console, f"Note: {note}", "yellow")
    paragraph(console, conditions(found), "dim")


def conditions(found: Found) -> str:
    """Under which conditions the figures hold."""
    return "; ".join(f"{name}: {value}" for name, value in found.conditions.items())


def write_png(found: Found, path: Path) -> None:
    """Write the text as it was cut, and the curves there are. Raises `OSError` where it cannot."""
    panels = [
        figures.text(found.pieces, 680, 0),
        figures.times(found.course, found.tokens, 680, 240),
        figures.costs(found.bill, 680, 150),
    ]
    lines = look.wrapped(sentences(found), 105)
    head = look.head("A prompt, shortened", lines, fontSize=18, offset=16)
    drawn = alt.vconcat(
        *(look.bare(chart) for chart in panels if chart is not None), spacing=24, title=head
    ).resolve_scale(x="independent", y="independent", color="independent")
    path.write_bytes(look.png(look.on_paper(drawn)))


def write_html(found: Found, path: Path) -> None:
    """Write the same, the whole text in it, as one page. Raises `OSError` where it cannot."""
    page = html.page(
        "prompt.html.jinja",
        found=found,
        sentences=list(sentences(found)),
        conditions=conditions(found),
        step=figures.step,
        shades=look.ramp(figures.STEPS - 1),
        figures=html.drawn(
            html.figure(
                "Time to the first token", "times", figures.times, found.course, found.tokens
            ),
            html.figure("What it costs", "costs", figures.costs, found.bill),
        ),
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")
