"""`penstock compare`: whether two runs differ, metric by metric."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A run: its directory, its name, or a baseline.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The run to hold against it.")],
    *,
    fail_if: Annotated[
        str | None,
        typer.Option(
            help="Exit 3 when B changed by more than this and not by chance, comma-separated: "
            "output_throughput<-5%,ttft.p99>+10%."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Test only these, comma-separated, such as output_throughput,ttft.p99: "
            "the fewer tests, the smaller the difference that each can find."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture of the changes here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the comparison, and only that, as JSON.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--runs", help="Where runs and baselines are looked for.")
    ] = Path("runs"),
) -> None:
    """Test each metric of run B for a difference from run A.

    Repeats of a run are compared by Welch's t over them, single runs over
    batches within each. Exits 3 when a --fail-if is met or cannot be judged.
    """
    import msgspec

    from penstock.record import compare as comparing
    from penstock.record.gate import parse_gates, rule
    from penstock.record.library import find
    from penstock.record.measures import named
    from penstock.record.run import load

    try:
        gates = parse_gates(fail_if) if fail_if is not None else []
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fail-if") from error
    try:
        names = [named(n.strip()).name for n in metrics.split(",")] if metrics is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--metrics") from error
    try:
        runs = load(find(a, root)), load(find(b, root))
        tested = dict.fromkeys([*(names or comparing.TESTED), *(gate.name for gate in gates)])
        made = comparing.compare(*runs, list(tested))
    except ValueError as error:
        _fail(str(error))
    rulings = rule(gates, made)
    if json:
        value = {**msgspec.to_builtins(made), "gates": msgspec.to_builtins(rulings)}
        print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())
    else:
        from rich.console import Console

        from penstock.report.compare import show

        show(made, rulings, Console())
    try:
        if html is not None:
            from penstock.report.compare import write_html

            write_html(made, rulings, runs, html)
        if png is not None:
            from penstock.report.compare import write_png

            write_png(made, png)
    except (OSError, ValueError) as error:
        _fail(str(error))
    if any(ruling.failed for ruling in rulings):
        raise typer.Exit(3)


def _fail(message: str) -> None:
    print(f"penstock compare: {message}", file=sys.stderr)
    raise typer.Exit(1)
