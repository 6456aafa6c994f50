"""`penstock hardware`: what devices can do, and what the machine at hand can."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="List hardware sheets, show one, measure the machine at hand.")

_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, and only that.")]
_Sheets = Annotated[
    list[Path] | None, typer.Option("--sheets", help="Sheets of your own, FILE.toml; repeatable.")
]


@app.callback(invoke_without_command=True)
def hardware(context: typer.Context) -> None:
    """List the hardware that can be named."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(
    *,
    json: _Json = False,
    sheets: _Sheets = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture of them here.")] = None,
) -> None:
    """List the hardware that can be named: vendors' dense rates, one device each."""
    from penstock.predict.sheet import devices
    from penstock.predict.sheet import read as read_sheets

    known = dict(devices())
    try:
        for path in sheets or ():
            known |= read_sheets(path)
    except ValueError as error:
        _fail(str(error))
    if png is not None:
        from penstock.report.figures.hardware import write_png

        try:
            write_png(known.values(), png)
        except (OSError, ValueError) as error:
            _fail(str(error))
    if json:
        _print_json(list(known.values()))
        return
    from rich.console import Console
    from rich.table import Table

    shown = ("bf16", "int8", "fp8", "fp4")
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("hardware", no_wrap=True)
    rates = (f"{precision}\nT/s" for precision in shown)
    for name in ("holds\nGB", "reads\nGB/s", *rates, "link\nGB/s", "\nW", "USD/h\nfrom"):
        grid.add_column(name, justify="right", no_wrap=True)
    for one in known.values():
        cheapest = min((price.usd_per_hour for price in one.prices), default=None)
        grid.add_row(
            one.name,
            _scaled(one.memory_bytes, 1e9),
            _scaled(one.read_bytes_per_s, 1e9),
            *(_scaled(one.flops.get(precision), 1e12) for precision in shown),
            _scaled(one.link_bytes_per_s, 1e9),
            _scaled(one.power_w, 1),
            "–" if cheapest is None else f"{cheapest:,.2f}",
        )
    Console().print(grid)
    print(
        "\nDense operations; the link is one device's, in one direction. – was not published, or\n"
        "the hardware has none. `penstock hardware show NAME` tells sources, prices and notes."
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="One that `penstock hardware` lists, or FILE.toml.")],
    *,
    json: _Json = False,
    sheets: _Sheets = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print it as TOML, to change and give to --on.")
    ] = False,
) -> None:
    """Show a sheet, with where its figures come from and what renting it costs."""
    from penstock.predict.sheet import device, to_toml

    if json and toml:
        raise typer.BadParameter("--json and --toml exclude each other", param_hint="--toml")
    try:
        found = device(name, *(sheets or ()))
    except ValueError as error:
        _fail(str(error))
    if json:
        _print_json(found)
    elif toml:
        print(to_toml(found), end="")
    else:
        _show(found)


@app.command()
def measure(
    *,
    toml: Annotated[Path | None, typer.Option("--toml", help="Write the sheet here.")] = None,
    json: _Json = False,
) -> None:
    """Measure the CPUs and memory of the machine at hand, as a sheet that --on takes.

    Some seconds; bf16 and int8 only with PyTorch installed.
    """
    import subprocess
    from datetime import date

    from penstock.predict.measured import this_machine
    from penstock.predict.sheet import to_toml

    try:
        found = this_machine(date.today().isoformat())
    except subprocess.CalledProcessError as error:
        _fail(f"the measurement ended with {error.returncode}; see its message above.")
    if toml is not None:
        try:
            toml.write_text(to_toml(found), encoding="utf-8")
        except OSError as error:
            _fail(f"--toml {toml} cannot be written: {error.strerror}.")
    if json:
        _print_json(found)
        return
    _show(found)
    if toml is not None:
        print(f"\nWritten to {toml}: `penstock limits MODEL --on {toml}` takes it.")


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column()
    grid.add_row("memory", f"{_scaled(found.memory_bytes, 1e9)} GB")
    grid.add_row("reads", f"{_scaled(found.read_bytes_per_s, 1e9)} GB/s")
    for precision, rate in found.flops.items():
        grid.add_row(precision, f"{_scaled(rate, 1e12)} T/s, dense")
    link = f"{_scaled(found.link_bytes_per_s, 1e9)} GB/s one way, among {found.link_devices}"
    grid.add_row("link", link if found.link_bytes_per_s else "–")
    network = f"{_scaled(found.network_bytes_per_s, 1e9)} GB/s one way"
    grid.add_row("network", network if found.network_bytes_per_s else "–")
    grid.add_row("power", f"{_scaled(found.power_w, 1)} W" if found.power_w else "–")
    for price in found.prices:
        said = f"{price.usd_per_hour:,.2f} USD/h, {price.provider}, {price.terms}"
        grid.add_row("price", f"{said}; read {price.date} ({price.source})")
    for source in found.sources:
        grid.add_row("source", source)
    if found.notes:
        grid.add_row("note", found.notes)
    console = Console(highlight=False)
    console.print(f"{found.name}: {found.title}", style="bold", markup=False)
    console.print(grid)


def _scaled(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{float(f'{value / unit:.4g}'):,.10g}"


def _print_json(value: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _fail(message: str) -> None:
    print(f"penstock hardware: {message}", file=sys.stderr)
    raise typer.Exit(1)
