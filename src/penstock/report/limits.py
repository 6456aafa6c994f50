"""What the hardware allows: in the terminal, as one HTML file, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import altair as alt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.plan.limits import Limits, Step
from penstock.plan.whatif import Prediction
from penstock.report import html, look
from penstock.report.compare import paragraph
from penstock.report.figures import ceilings
from penstock.report.table import duration, figure

COLUMNS = ("at most", "each", "binds", "usually", "each", "mostly")
USUAL = (
    "“At most” is the sheet's full rates, without overhead and with everything overlapping: "
    "nothing real is faster. “Usually” is the step time of default efficiencies, which were "
    "read off kernels measured on H100, H200 and B200, not off this system: measure it, and "
    "`penstock calibrate` fits them."
)
_STYLE = {"raises": "green", "lowers": "red", "leaves": "dim"}


def show(found: Limits, predictions: Sequence[Prediction], console: Console) -> None:
    """Print the limits, and the predictions where there are any."""
    console.print()
    for sentence in sentences(found):
        paragraph(console, sentence)
    for title, steps in phases(found).items():
        console.print()
        paragraph(console, title.capitalize(), "cyan")
        console.print(_table(steps))
    if predictions:
        console.print()
        console.print(_predictions(predictions))
        for one in predictions:
            paragraph(console, f"{one.change}: {one.why}.", "dim")
    console.print()
    paragraph(console, USUAL, "dim")
    for note in found.notes:
        paragraph(console, f"Note: {note}.")


def sentences(found: Limits) -> Iterator[str]:
    """What matters most, in words."""
    sparse = ""
    if found.active_parameters < 0.8 * found.parameters:
        sparse = f", {found.active_parameters / 1e9:,.1f} B of them active for a token"
    yield (
        f"{found.model}, {found.parameters / 1e9:,.2f} B parameters{sparse}, in {found.weights}: "
        f"{found.weight_bytes / 1e9:,.1f} GB of weights on {found.devices} x {found.device} with "
        f"{found.memory_bytes / 1e9:,.0f} GB in all that read "
        f"{found.read_bytes_per_s / 1e12:,.3g} TB/s."
    )
    alone, most = found.decode[0], found.decode[-1]
    yield (
        f"With {_sequences(alone.batch)} decoding, a user gets at most "
        f"{figure(alone.user_tokens_per_s)} tokens/s, usually "
        f"{figure(alone.usually_user_tokens_per_s)}; what binds is {_named(alone.binds)}. "
        f"With {_sequences(most.batch)}, all get at most {figure(most.tokens_per_s)} tokens/s, "
        f"usually {figure(most.usually_tokens_per_s)}; what binds is {_named(most.binds)}."
    )
    yield (
        f"K and V in {found.kv} take {found.kv_bytes_per_token / 1e3:,.1f} kB a token: the pool "
        f"holds {found.kv_tokens:,.0f} tokens, so at most {found.largest_batch:,} sequences of "
        f"prompt {found.prompt:,} and half of output {found.output:,}."
    )
    if found.crossover is None:
        yield (
            "Decoding waits for memory however many sequences there are: at this length a "
            "sequence's K and V take longer to read than its arithmetic to do."
        )
    else:
        fits = "" if found.crossover <= found.largest_batch else ", more than fit"
        yield f"Decoding stops waiting for memory at {_sequences(found.crossover)}{fits}."
    first = found.prefill
    reach = (
        ""
        if found.prefill_crossover is None
        else (
            f"; a step stops waiting for the weights at {found.prefill_crossover:,} prompt tokens"
        )
    )
    yield (
        f"A prompt of {found.prompt:,} tokens takes at least {duration(first.seconds)}, "
        f"usually {duration(first.usually_s)}: at most {figure(first.tokens_per_s)} prompt "
        f"tokens/s; what binds is {_named(first.binds)}{reach}."
    )


def phases(found: Limits) -> dict[str, Sequence[Step]]:
    """The tables: title to steps."""
    return {
        "decoding alone, tokens/s of all and of each": found.decode,
        "prompts computed too, output tokens/s of all and of each": found.served,
    }


def cells(step: Step) -> list[str]:
    """A step as text, under `COLUMNS`."""
    return [
        figure(step.tokens_per_s),
        figure(step.user_tokens_per_s),
        step.binds,
        figure(step.usually_tokens_per_s),
        figure(step.usually_user_tokens_per_s),
        step.usually_binds,
    ]


def percent(value: float) -> str:
    """A relative change, with its sign."""
    return f"{100 * value:+,.1f} %"


def write_png(found: Limits, predictions: Sequence[Prediction], path: Path) -> None:
    """Write the figures as one picture. Raises `OSError` where `path` cannot be written."""
    top = [ceilings.throughput(found, 520, 330), ceilings.parts(found, 460, 330)]
    beside = alt.hconcat(*(look.bare(chart) for chart in top), spacing=48)
    rows = [beside.resolve_scale(color="independent", strokeDash="independent")]
    if predictions:
        height = 40 + 26 * len(predictions)
        rows.append(look.bare(ceilings.changes(predictions, 800, height)))
    head = look.head(
        f"What the hardware allows: {found.model} on {found.devices} x {found.device}",
        look.wrapped(sentences(found), 160),
    )
    whole = alt.vconcat(*rows, spacing=32, title=head)
    # Each figure's colours mean something else.
    drawn = look.on_paper(whole.resolve_scale(color="independent", strokeDash="independent"))
    path.write_bytes(look.png(drawn))


def write_html(found: Limits, predictions: Sequence[Prediction], path: Path) -> None:
    """Write the limits as one self-contained page. Raises `OSError` where it cannot."""
    drawn = html.drawn(
        html.figure("Throughput by batch", "throughput", ceilings.throughput, found),
        html.figure("Where a step's time goes", "parts", ceilings.parts, found),
    )
    changes = html.drawn(
        html.figure("What would change it", "changes", ceilings.changes, predictions)
        if predictions
        else None
    )
    page = html.page(
        "limits.html.jinja",
        found=found,
        sentences=list(sentences(found)),
        phases=phases(found),
        columns=COLUMNS,
        cells=cells,
        figures=drawn,
        changes=changes,
        predictions=predictions,
        percent=percent,
        usual=USUAL,
        palette=look.palette(1),
    )
    path.write_text(page, encoding="utf-8")


def _table(steps: Sequence[Step]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("  sequences", justify="right", no_wrap=True)
    for name in COLUMNS:
        grid.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        grid.add_row(f"{step.batch:,}", *cells(step))
    return grid


def _predictions(predictions: Sequence[Prediction]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column(Text("  What if", "cyan"), no_wrap=True)
    for name in ("throughput", "", "ceiling", "one user"):
        grid.add_column(name, justify="right", no_wrap=True)
    for one in predictions:
        style = _STYLE[one.effect]
        change = percent(one.throughput)
        grid.add_row(
            f"  {one.change}",
            Text(change, style),
            Text(one.effect, style),
            percent(one.at_ceiling),
            percent(one.user),
        )
    return grid


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


def _named(binds: str) -> str:
    named = {"weights": "reading the weights", "KV": "reading K and V", "link": "the link"}
    return named.get(binds, binds)
