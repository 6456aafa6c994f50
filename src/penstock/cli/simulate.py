"""`penstock simulate`: a whole fleet under a load, in virtual time."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from penstock.cli.options import asking, content, judging, load, output

# Options of `bench` that a simulation by itself has no use for.
_IDLE = """
    price interleave repeats max_tokens_total prompts salt workers rules tasks few_shot temperature
    compress_prompts compress_model
"""
_REST: dict[str, Any] = dict.fromkeys(_IDLE.split()) | {
    "sweep": False,
    "capacity": False,
    "stream": True,
    "samples": "1",
    "unsafe_sandbox": False,
}


def simulate(
    context_: typer.Context,
    fleet: Annotated[str, typer.Argument(help="A fleet's FILE.toml, or the name of an example.")],
    *,
    trace: load.Trace = None,
    speed: load.Speed = 1.0,
    limit: load.Limit = None,
    rate: load.Rate = None,
    arrival: load.Arrival = None,
    concurrency: load.Concurrency = None,
    requests: load.Requests = None,
    duration: load.Duration = None,
    think: load.Think = 0.0,
    warmup: load.Warmup = 0,
    workload: content.Workload = "plain",
    input_len: content.InputLen = "64-256",
    output_len: content.OutputLen = "32-160",
    n: content.N = 1,
    seed: content.Seed = 0,
    context: asking.Context = None,
    slo: judging.Slo = "",
    out: output.Out = None,
    json: output.Json = False,
    png: Annotated[bool, typer.Option(help="Write simulation.png beside the figures.")] = True,
) -> None:
    """Simulate FLEET under one load, until every request has ended.

    For long traces and whole days: no time of a token is kept, and nothing
    bounds the load but --requests, --duration or the trace. `penstock bench
    sim:FILE` measures the same fleet with bench's own bounds and reports.
    """
    from penstock.cli.asked import options_of
    from penstock.cli.parse import given
    from penstock.meter.plans import Plans
    from penstock.simulate import read_fleet
    from penstock.simulate import simulate as play
    from penstock.simulate.target import SimTarget

    written = given(context_)
    params = {**_REST, **context_.params, "target": f"sim:{fleet}"}
    options = options_of(params, written)
    if not (options.arrivals or options.concurrency or trace):
        raise typer.BadParameter(
            "say what is asked: --trace, --rate, --arrival or --concurrency, or a --workload "
            "that has a load (voice, chat, coding, batch)"
        )
    if len(options.arrivals) + len(options.concurrency) > 1:
        raise typer.BadParameter(
            "a simulation has one load; for several, use penstock bench sim:FILE",
            param_hint="--rate, --arrival and --concurrency",
        )
    if trace is not None and not Path(str(trace).partition("#")[0]).exists():
        raise typer.BadParameter(f"{trace} does not exist", param_hint="--trace")
    counted = requests is not None or trace is not None
    try:
        described = read_fleet(fleet)
        target = SimTarget(described, seed)
        plans = asyncio.run(Plans.open(target, options, None))
        result = play(
            described,
            next(plans.given()),
            seed,
            until_s=options.duration_s if counted else options.limit_s,
        )
    except (ValueError, OSError) as error:
        _fail(str(error))
    figures = result.summary(options.slos)
    directory = out or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-sim")
    try:
        result.save(directory, figures)
        if png:
            from penstock.report.simulation import picture

            picture(result, directory / "simulation.png")
    except OSError as error:
        _fail(f"cannot write the result: {error}. Choose another --out.")
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(figures), indent=1).decode())
        return
    from rich.console import Console

    from penstock.report.simulation import show

    console = Console()
    show(figures, result.wall_s, console)
    console.print(f"Result  {directory}", markup=False)


def _fail(message: str) -> NoReturn:
    print(f"penstock simulate: {message}", file=sys.stderr)
    raise typer.Exit(1)
