"""The command line: one file per command; each imports what it needs when it runs."""

from __future__ import annotations

import typer

from penstock import __version__
from penstock.cli import hardware, models, runs
from penstock.cli.ablate import ablate
from penstock.cli.audit import audit
from penstock.cli.bench import bench
from penstock.cli.cache import cache
from penstock.cli.calibrate import calibrate
from penstock.cli.compare import compare
from penstock.cli.compress import compress
from penstock.cli.compress_prompt import compress_prompt
from penstock.cli.explain import explain
from penstock.cli.limits import limits
from penstock.cli.plan import plan
from penstock.cli.reason import reason
from penstock.cli.selftest import selftest
from penstock.cli.serve import serve
from penstock.cli.simulate import simulate

app = typer.Typer(
    name="penstock",
    help="Raise, measure and plan the tokens per second of LLM serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(bench)
app.command()(compare)
app.add_typer(runs.app, name="runs")
app.command()(serve)
app.command()(ablate)
app.command()(explain)
app.command()(compress)
app.command()(compress_prompt)
app.command()(reason)
app.command()(limits)
app.command()(audit)
app.command()(plan)
app.command()(simulate)
app.command()(cache)
app.command()(calibrate)
app.add_typer(models.app, name="models")
app.add_typer(hardware.app, name="hardware")
app.command()(selftest)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        print(f"penstock {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of `penstock` and `python -m penstock`."""
    app()
