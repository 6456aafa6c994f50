"""The report a person reads when a run ends: sentences first, then the table."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.record.run import Run
from penstock.report import table as figures

_QUANTILES = ("p50", "p99")  # p90 is in the HTML report and in the JSON
_LABEL, _UNIT, _FIGURE = 27, 10, 10  # widths in characters


def show(run: Run, console: Console) -> None:
    """Print the summary of a run.

    Text that came from a server or the user is printed literally, whatever
    it looks like. Points that do not fit side by side continue below.
    """
    summary = run.summary
    points = summary["points"]
    console.print()
    for sentence in summary["sentences"]:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)), highlight=False)
    console.print()
    beside = max(1, (console.width - _LABEL - _UNIT - 4) // (_FIGURE + 2))
    for start in range(0, len(points), beside):
        console.print(_figures(points[start : start + beside]))
    if (doubt := figures.doubts(points, _QUANTILES)) is not None:
        _note(console, doubt)
    _errors(console, points)
    console.print()
    console.print(_conditions(points))
    for note in figures.notes(summary):
        _note(console, note)
    console.print()
    for name, where in (("Report", summary["html"]), ("Run", summary["run_dir"])):
        if where is not None:
            # soft_wrap: a path broken over two lines cannot be clicked or copied.
            console.print(f"  {name:<7} [bold]{escape(str(where))}[/]", soft_wrap=True)


def _figures(points: figures.Points) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), show_header=True, header_style="bold")
    grid.add_column("", min_width=_LABEL)
    for point in points:
        grid.add_column(escape(figures.heading(point)), justify="right", min_width=_FIGURE)
    grid.add_column("", min_width=_UNIT, style="dim")
    for section in figures.sections(points, _QUANTILES):
        grid.add_row(f"[cyan]{section.title}[/]")
        for rows in section.groups():
            for row in rows:
                label = row.label if row is rows[0] else ""
                cells = [f"{_mark(cell)}{escape(cell.text)}" for cell in row.cells]
                grid.add_row(f"  {label:<{_LABEL - 6}} {row.detail}", *cells, row.unit)
    return grid


def _mark(cell: figures.Cell) -> str:
    return "[dim]*[/]" if cell.doubtful else ""


def _errors(console: Console, points: figures.Points) -> None:
    for point in points:
        for name, count in point["errors"]["by_class"].items():
            what = f"  {figures.heading(point)}: {count} × {name}"
            console.print(Text(what, style="red"), highlight=False)


def _conditions(points: figures.Points) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    grid.add_column(style="dim")
    grid.add_column()
    for name, values in figures.conditions(points):
        grid.add_row(f"  {escape(name)}", escape(" · ".join(values)))
    return grid


def _note(console: Console, text: str) -> None:
    console.print(Padding(Text(text, style="dim"), (0, 0, 0, 2)), highlight=False)
