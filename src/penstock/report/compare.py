"""Two runs side by side: in the terminal, as one HTML file, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.record.compare import ALPHA, Comparison, Effect, Pair
from penstock.record.gate import Ruling
from penstock.record.run import Run
from penstock.report import look
from penstock.report.figures.compare import curves, effects, stacked
from penstock.report.table import NONE, duration, figure
from penstock.report.terminal import literal
from penstock.report.view import View

_SIZES = {"wide": (560, 320), "narrow": (350, 300)}
_STYLE = {"better": "green", "worse": "red"}


def show(made: Comparison, rulings: Sequence[Ruling], console: Console) -> None:
    """Print a comparison: warnings first, then a table for each operating point."""
    paragraph(console, f"A  {made.a}")
    paragraph(console, f"B  {made.b}")
    for warning in made.warnings:
        paragraph(console, f"Warning: {warning}", "yellow")
    for pair in made.pairs:
        console.print()
        console.print(_table(pair))
        for name, (a, b) in pair.conditions.items():
            paragraph(console, f"{name.replace('_', ' ')}: {a} in A, {b} in B", "dim")
        paragraph(console, f"Tested by {pair.test}.", "dim")
    console.print()
    paragraph(console, note(made), "dim")
    for ruling in rulings:
        style = "bold red" if ruling.failed else "green"
        paragraph(console, f"{ruling.gate}, {ruling.at}: {ruling.says}", style)


def _table(pair: Pair) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column(Text(f"  {pair.at.capitalize()}", "cyan"), no_wrap=True)
    for name in ("A", "B", "change", "95 %"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("differs")
    for effect in pair.effects:
        grid.add_row(f"  {effect.name}", *cells(effect), Text(words(effect), style(effect)))
    return grid


def paragraph(console: Console, text: str, style: str = "") -> None:
    """One indented paragraph; markup in it is shown literally."""
    console.print(Padding(Text(literal(text), style), (0, 0, 0, 2)))


def style(effect: Effect) -> str:
    """How a finding is coloured."""
    return _STYLE.get(effect.finding, "dim")


def cells(effect: Effect) -> list[str]:
    """Both values (throughputs per second), the change and its interval, as text."""
    low_high = NONE
    if effect.ci95 is not None:
        low_high = f"{effect.ci95[0] * 100:+.1f} to {effect.ci95[1] * 100:+.1f}"
    change = NONE if effect.change is None else f"{effect.change * 100:+.1f} %"
    return [_value(effect.a, effect.unit), _value(effect.b, effect.unit), change, low_high]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return NONE
    if unit == "s":
        return duration(value)
    return f"{value * 100:.2f} %" if unit == "share" else figure(value)


def words(effect: Effect) -> str:
    """The finding in plain words."""
    if effect.finding == "not tested":
        return f"not tested: {effect.why}"
    if effect.finding == "none":
        alone = effect.p is not None and effect.p < ALPHA
        return "none shown" + (", given how much was tested" if alone else "")
    return f"B is {effect.finding}"


def note(made: Comparison) -> str:
    """What the findings rest on."""
    return (
        "A difference is claimed where its p-value, adjusted for all tests of this comparison "
        f"(Holm), is below {made.alpha:g}, so that not more than {made.alpha * 100:g} in a hundred "
        "comparisons of equal runs claim any. Intervals are of each metric alone. “None shown” "
        "does not mean equal: the interval says how large a difference may have been missed."
    )


def write_html(
    made: Comparison, rulings: Sequence[Ruling], runs: tuple[Run, Run], path: Path
) -> None:
    """Write a comparison as one self-contained page. Raises `OSError` where it cannot."""
    environment = Environment(
        loader=PackageLoader("penstock.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = []
    for i, pair in enumerate(made.pairs):
        drawn.append(
            {
                size: Markup(look.svg(chart, f"effect{i}-{size}", f"Change, {pair.at}"))
                for size, (width, height) in _SIZES.items()
                if (chart := effects(pair, width, height)) is not None
            }
        )
    overview = {
        size: Markup(look.svg(chart, f"curve-{size}", "Speed against throughput"))
        for size, (width, height) in _SIZES.items()
        if all(View(run).curved for run in runs)
        and (chart := curves(runs[0].summary, runs[1].summary, width, height)) is not None
    }
    page = environment.get_template("compare.html.jinja").render(
        made=made,
        rulings=rulings,
        drawn=drawn,
        overview=overview,
        cells=cells,
        words=words,
        note=note(made),
        palette=look.palette(2),
    )
    path.write_text(page, encoding="utf-8")


def write_png(made: Comparison, path: Path) -> None:
    """Write the changes of all operating points as one picture.

    Raises `ValueError` when no metric could be tested, and `OSError` where `path` cannot be
    written.
    """
    charts = [
        chart for pair in made.pairs if (chart := effects(pair, 720, 340, titled=True)) is not None
    ]
    if not charts:
        raise ValueError("this comparison has no picture: no metric could be tested")
    path.write_bytes(look.png(stacked(charts)))
