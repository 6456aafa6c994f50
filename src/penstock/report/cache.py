"""A sweep over KV pools: in the terminal, as one HTML file, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import altair as alt
from rich.console import Console
from rich.table import Table

from penstock.plan.cache import Sweep
from penstock.plan.knee import COMPUTED, SHORT, THROUGHPUT, WAIT, Pool
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import cache as figures
from penstock.report.table import duration, figure

COLUMNS = ("tokens", "hits", "tok/s", "TTFT p50", "p99", "short", "busy", "")
STANDS_ON = (
    "Hits are exact for this scheduler, this prefix cache and these arrivals; seconds are those of "
    "the step-time model, and a pool beyond the device's memory is taken to be as fast as it. More "
    "memory helps until every reusable prefix stays (at most "
    f"{COMPUTED:.0%} more prompt tokens are computed than with a pool that never forgets) and "
    f"requests wait for pages alone in at most {SHORT:.0%} of the busy time (“short”); or until "
    f"output tokens/s are within {THROUGHPUT:.0%}, and median and 99th percentile of the time to "
    f"the first token within {WAIT:.0%}, of that pool's."
)
_WIDE, _HIGH = 640, 150  # of a panel of the picture


def show(swept: Sweep, console: Console) -> None:
    """Print the sweep: what was asked, a table by size, and where more stops helping."""
    console.print()
    paragraph(console, asked(swept), "cyan")
    for number, sentence in enumerate(sentences(swept)):
        paragraph(console, sentence, "" if number else "bold")
    console.print()
    console.print(_table(swept))
    console.print()
    paragraph(console, STANDS_ON, "dim")
    for note in swept.notes:
        paragraph(console, f"Note: {note}.")


def asked(swept: Sweep) -> str:
    """What was replayed on what."""
    each = "unknown" if swept.bytes_per_token is None else f"{swept.bytes_per_token / 1e3:,.4g} kB"
    return (
        f"{swept.trace}, {swept.requests:,} requests, {swept.load}; {swept.hardware}; a token's K "
        f"and V take {each}, a page holds {swept.page_tokens} tokens."
    )


def sentences(swept: Sweep) -> Iterator[str]:
    """Where more memory stops helping, why, and what the replica's own size gives."""
    knee, most = swept.knee, swept.unbounded
    if knee is None:
        yield (
            f"Interrupted: {len(swept.pools)} sizes are done, and where more memory stops helping "
            f"is not known. A pool that never forgets finds {most.hit_rate:.1%} of prompt tokens."
        )
    elif knee.below is None:
        yield f"No size here is too small ({knee.at.size} is the smallest): {knee.says}."
    else:
        yield (
            f"More memory stops helping at {knee.at.size} on each replica ({knee.at.tokens:,} "
            f"tokens; {knee.below.size} still falls short): {knee.says}."
        )
    if knee is not None and knee.complete.pages > knee.at.pages:
        full = knee.complete
        yield f"Every reusable prefix stays from {full.size} on ({full.hit_rate:.1%} hits)."
    if (held := swept.held) is not None:
        share = held.hit_rate / most.hit_rate if most.hit_rate else 1.0
        yield (
            f"The replica by itself holds {held.size} ({held.tokens:,} tokens): "
            f"{held.hit_rate:.1%} hits, {share:.0%} of all there are; first tokens after "
            f"{duration(held.ttft_p50_s)} in the median and {duration(held.ttft_p99_s)} at the "
            f"99th percentile, {figure(held.output_tokens_per_s)} output tokens/s."
        )
    elif swept.held_tokens is not None and swept.held_tokens > most.tokens:
        yield (
            f"The replica by itself holds {swept.held_tokens:,} tokens, more than all of this "
            "trace: it forgets nothing."
        )
    elif swept.held_tokens is not None and swept.held_tokens < swept.longest_request:
        yield (
            f"The replica by itself holds {swept.held_tokens:,} tokens, less than the longest "
            f"request ({swept.longest_request:,}): it could not serve this trace."
        )


def cells(swept: Sweep, pool: Pool) -> list[str]:
    """A pool's figures as text, under `COLUMNS`."""
    return [
        f"{pool.tokens / 1e6:,.3g} M",
        f"{pool.hit_rate:.1%}",
        figure(pool.output_tokens_per_s),
        duration(pool.ttft_p50_s),
        duration(pool.ttft_p99_s),
        f"{pool.short_of_pages:.0%}",
        f"{pool.busy:.0%}",
        special(swept, pool),
    ]


def special(swept: Sweep, pool: Pool) -> str:
    """What this size is, besides one of many."""
    knee = swept.knee
    marks = (
        ("knee", knee is not None and pool == knee.at),
        ("by itself", pool == swept.held),
        ("never forgets", pool == swept.unbounded),
    )
    return ", ".join(name for name, so in marks if so)


def write_html(swept: Sweep, path: Path) -> None:
    """Write the sweep as one self-contained page. Raises `OSError` where it cannot."""
    drawn = html.drawn(
        *(html.figure(title, name, draw, swept) for name, title, draw in figures.FIGURES)
    )
    page = html.page(
        "cache.html.jinja",
        swept=swept,
        asked=asked(swept),
        sentences=list(sentences(swept)),
        figures=drawn,
        columns=COLUMNS,
        cells=cells,
        stands_on=STANDS_ON,
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def write_png(swept: Sweep, path: Path) -> None:
    """Write the three panels as one picture. Raises `OSError` where it cannot."""
    charts = [draw(swept, _WIDE, _HIGH) for _, _, draw in figures.FIGURES]
    lines = look.wrapped((asked(swept), *sentences(swept)), 105)
    head = look.head(f"KV memory and prefix hits: {swept.trace}", lines, fontSize=18, offset=16)
    panels = [look.bare(chart) for chart in charts if chart is not None]
    drawn = alt.vconcat(*panels, spacing=18, title=head)
    path.write_bytes(look.png(look.on_paper(drawn)))


def _table(swept: Sweep) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("  KV", no_wrap=True)
    for name in COLUMNS:
        grid.add_column(name, justify="right" if name else "left", no_wrap=True)
    for pool in swept.pools:
        grid.add_row(f"  {pool.size}", *cells(swept, pool))
    return grid
