"""The report a person reads when a run ends: sentences first, then the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.record.run import Role, Run
from penstock.report import table as figures
from penstock.report.view import by_load

_QUANTILES = ("p50", "p99")  # p90 is in the HTML report and in the JSON
_LABEL, _UNIT, _FIGURE = 27, 10, 10  # widths in characters

_Value = Callable[[Mapping[str, Any]], str]
_COLUMNS: tuple[tuple[str, _Value], ...] = (
    ("tokens/s\nin all", lambda p: figures.figure(p["output_throughput"]["value"])),
    ("each\nuser", lambda p: figures.figure(p["user_speed"]["p50"])),
    ("1st token\np50", lambda p: figures.duration(p["ttft_from_schedule"]["p50"])),
    ("\np99", lambda p: figures.duration(p["ttft_from_schedule"]["p99"])),
)


def show(run: Run, console: Console) -> None:
    """Print the summary of a run.

    Points that do not fit side by side are a line each, with fewer figures.
    What came from a server or the user is shown literally: markup is no markup
    and control characters are spelled out, so that an answer cannot drive the
    terminal.
    """
    summary = run.summary
    points = by_load(summary["points"])
    console.print()
    for sentence in (*summary["sentences"], *figures.findings(summary)):
        _paragraph(console, sentence)
    console.print()
    beside = max(1, (console.width - _LABEL - _UNIT - 4) // (_FIGURE + 2))
    console.print(_figures(points) if len(points) <= beside else _rows(points))
    if (doubt := figures.doubts(points, _QUANTILES)) is not None:
        _paragraph(console, doubt, "dim")
    for point in points:
        for name, count in point["errors"]["by_class"].items():
            _paragraph(console, f"{figures.heading(point)}: {count} × {name}", "red")
    console.print()
    _paragraph(console, "; ".join(_conditions(points)), "dim")
    if notes := summary["notes"]:
        console.print()
        for note in notes:
            _paragraph(console, f"Note: {note}")
    console.print()
    _verdict(console, summary["verdict"])
    console.print()
    for name, where in (("Report", summary["html"]), ("Run", summary["run_dir"])):
        if where is not None:
            line = Text.assemble(f"  {name:<7} ", (literal(str(where)), "bold"))
            # A path broken over two lines can be neither clicked nor copied.
            console.print(line, soft_wrap=True)


def _figures(points: figures.Points) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("", min_width=_LABEL)
    for point in points:
        grid.add_column(literal(figures.heading(point)), justify="right", min_width=_FIGURE)
    grid.add_column("", min_width=_UNIT, style="dim")
    for section in figures.sections(points, _QUANTILES):
        grid.add_row(Text(section.title, "cyan"))
        for rows in section.groups():
            for row in rows:
                label = row.label if row is rows[0] else ""
                cells = [("*" if cell.doubtful else "") + cell.text for cell in row.cells]
                grid.add_row(f"  {label:<{_LABEL - 6}} {row.detail}", *cells, row.unit)
    return grid


def _rows(points: figures.Points) -> Table:
    """The figures that an operating point is chosen by; only what was asked for."""
    columns = list(_COLUMNS)
    if any(p["quality"] for p in points):
        columns.append(
            ("right\nanswers", lambda p: figures.percent(p["quality"]["accuracy"]["value"]))
        )
    if any(p["goodput"]["slo"] for p in points):
        columns.append(("within\nSLO", lambda p: figures.percent(p["goodput"]["share"])))
    if any(p["cost"] for p in points):
        columns.append(("cost of M\noutput", lambda p: figures.figure(p["cost"]["output_tokens"])))
    if any(figures.joules(p) for p in points):
        columns.append(("J a\ntoken", lambda p: figures.figure(figures.joules(p))))
    if any(p["errors"]["count"] for p in points):
        columns.append(("\nerrors", lambda p: figures.figure(p["errors"]["count"])))
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("", no_wrap=True)
    for name, _ in columns:
        grid.add_column(name, justify="right")
    for point in points:
        cells = (value(point) for _, value in columns)
        style = "dim" if point["role"] == Role.OVERLOAD else ""
        grid.add_row(f"  {figures.heading(point)}", *cells, style=style)
    return grid


def _verdict(console: Console, verdict: dict[str, Any]) -> None:
    """VALID, or INVALID with each reason and what to do about it."""
    rules = f" under {verdict['rules']}" if verdict["rules"] else ""
    if verdict["valid"]:
        _paragraph(console, f"VALID{rules}", "green")
        return
    _paragraph(console, f"INVALID{rules}: these figures should not be claimed", "bold red")
    for reason in figures.reasons(verdict):
        for said in reason.says:
            _paragraph(console, f"- {said}")
        _paragraph(console, f"  To do: {reason.remedy}.")


def _conditions(points: figures.Points) -> Iterator[str]:
    for name, values in figures.conditions(points):
        if name == "limit basis":  # long, and in the HTML report
            continue
        yield f"{name}: {' · '.join(values)}"


def _paragraph(console: Console, text: str, style: str = "") -> None:
    console.print(Padding(Text(literal(text), style), (0, 0, 0, 2)))


def literal(text: str) -> str:
    """The text with control characters spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
