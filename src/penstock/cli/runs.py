"""`penstock runs`: past runs, one target's history, baselines, and requests as CSV."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from penstock.record.library import Listed
    from penstock.record.run import Run

app = typer.Typer(help="List past runs, show a target's history, name a baseline.")
Root = Annotated[Path, typer.Option("--runs", help="Where the runs are.")]
RUNS = Path("runs")


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, root: Root = RUNS) -> None:
    """List past runs: when, what was measured, its figures and its verdict."""
    context.obj = root
    if context.invoked_subcommand is not None:
        return
    from penstock.record.library import baselines, listed
    from penstock.report.terminal import literal

    found = listed(root)
    if not found:
        print(f"no runs under {root}/", file=sys.stderr)
        return
    try:
        names = baselines(root)
    except ValueError as error:
        _fail(str(error))
    marks = {directory: name for name, directory in names.items()}
    grid = _grid(
        "run", "when", "target", "load", "tokens", "tokens/s", "first token p50", "verdict", ""
    )
    for one in found:
        if one.run is not None:
            for row in _rows(one, one.run, marks.get(one.name, "")):
                grid.add_row(*row)
    _print(grid)
    for one in found:
        if one.fault is not None:
            print(f"not shown: {literal(one.fault)}", file=sys.stderr)


def _rows(one: Listed, run: Run, baseline: str) -> list[list[Any]]:
    """A line for each operating point; what is the run's own stands on the first."""
    from penstock.record.library import named_target
    from penstock.report.table import duration, figure, heading, moment

    head: list[Any] = [_text(one.name), moment(run.started), _text(named_target(run))]
    rows = []
    for point in run.summary["points"]:
        rows.append(
            [
                *head,
                _text(heading(point)),
                _text(_lengths(point["conditions"])),
                figure(point["output_throughput"]["value"]),
                duration(point["ttft_from_schedule"]["p50"]),
                _verdict(point),
                _text(baseline and f"baseline {baseline}"),
            ]
        )
        head, baseline = ["", "", ""], ""
    return rows or [[*head, "no operating point", "", "", "", "", ""]]


def _lengths(conditions: dict[str, Any]) -> str:
    """Mean tokens in and out of a request."""
    prompt, output = (conditions.get(f"{which}_tokens_mean") for which in ("prompt", "output"))
    return f"{prompt or 'unknown'} in, {output or 'unknown'} out"


def _verdict(point: dict[str, Any]) -> str:
    if "verdict" not in point:
        return "not judged"
    reasons = point["verdict"]["reasons"]
    codes = ", ".join(dict.fromkeys(reason["code"] for reason in reasons))
    return f"INVALID: {codes}" if codes else "VALID"


@app.command()
def history(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(help="The target's or its model's name, or a part of it.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Such as output_throughput or ttft.p99.")
    ] = "output_throughput",
) -> None:
    """Show one metric over time, with its 95 % interval, for each load."""
    from penstock.record import library
    from penstock.record.measures import named
    from penstock.report.table import NONE, duration, figure, heading, moment

    try:
        measure = named(metric)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--metric") from error
    seen = [
        (one, point, *library.figure(point, measure.name))
        for one, point in library.history(library.listed(context.obj), target)
    ]
    if not seen:
        _fail(f"no run of {target or 'any target'} under {context.obj}/")
    most = max((value for _, _, value, _ in seen if value is not None), default=0.0)
    show = duration if measure.unit == "s" else figure
    grid = _grid("when", "target", "load", measure.name, "95 % interval", "", "run")
    order = sorted(seen, key=lambda row: (heading(row[1]), row[0].run.started))  # type: ignore[union-attr]
    for one, point, value, interval in order:
        assert one.run is not None
        grid.add_row(
            moment(one.run.started),
            _text(library.named_target(one.run)),
            _text(heading(point)),
            show(value),
            NONE if interval is None else f"{show(interval[0])} to {show(interval[1])}",
            "█" * round(20 * (value or 0.0) / most) if most else "",
            _text(one.name),
        )
    _print(grid)


@app.command()
def baseline(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="How the run will be called.")],
    run: Annotated[str, typer.Argument(help="The run: its directory, or its name.")],
) -> None:
    """Name a run, so that `penstock compare NAME RUN` holds others against it."""
    from penstock.record.library import find, set_baseline

    try:
        directory = find(run, context.obj)
        set_baseline(name, directory, context.obj)
    except (ValueError, OSError) as error:
        _fail(str(error))
    print(f"{name} is now {directory}")


@app.command()
def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run: its directory, its name, or a baseline.")],
    csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write here instead of standard output.")] = None,
) -> None:
    """Write a run's requests, one line each; times are in nanoseconds, lists space-separated."""
    if not csv:
        raise typer.BadParameter("say in which format; there is --csv", param_hint="export")
    from penstock.record.export import write_csv
    from penstock.record.library import find
    from penstock.record.run import load

    try:
        loaded = load(find(run, context.obj))
        if out is None:
            write_csv(loaded, sys.stdout)
        else:
            with out.open("w", encoding="utf-8", newline="") as file:
                write_csv(loaded, file)
    except (ValueError, OSError) as error:
        _fail(str(error))


def _grid(*names: str) -> Table:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in names:
        grid.add_column(name)
    return grid


def _text(text: str) -> Any:
    """Literal text: a directory or a model may be called anything."""
    from rich.text import Text

    from penstock.report.terminal import literal

    return Text(literal(text))


def _print(grid: Table) -> None:
    from rich.console import Console

    Console().print(grid)


def _fail(message: str) -> NoReturn:
    print(f"penstock runs: {message}", file=sys.stderr)
    raise typer.Exit(1)
