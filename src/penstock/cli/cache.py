"""`penstock cache`: how much KV memory a trace can use, and where more stops helping."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from penstock.cli.told import tell

if TYPE_CHECKING:
    from penstock.plan.knee import Pool


def cache(
    context_: typer.Context,
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="Recorded traffic that says which prompts begin alike: Mooncake's JSON lines "
            "with hash_ids, or the agentic-coding table.",
        ),
    ],
    *,
    model: Annotated[
        str | None, typer.Option(help="A model by name, hub id, or the folder of a config.json.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Hardware: a name of `penstock hardware`, or FILE.toml.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Format of the weights; as published if absent.")
    ] = None,
    kv: Annotated[str, typer.Option(help="Format of K and V.")] = "bf16",
    tp: Annotated[int, typer.Option(help="Devices that share every layer.")] = 1,
    steptime: Annotated[
        Path | None,
        typer.Option(help="Step times that `penstock calibrate` wrote, in place of --on."),
    ] = None,
    fleet: Annotated[
        str | None,
        typer.Option(help="A fleet's FILE.toml or example, as `penstock simulate` takes it."),
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="Sequences that run at once. Default: 256.")
    ] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a step. Default: 8192.")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Pools of each replica, comma-separated: 40GB,1.5TB, or tokens: 200k,2M. Default: "
            "from the longest request to everything, in equal factors."
        ),
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=2, max=100, help="Sizes between those ends. Default: 10.")
    ] = None,
    page_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a page. Default: 512; with --fleet its own."),
    ] = None,
    speed: Annotated[float, typer.Option(help="Replay so many times as fast.")] = 1.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take so many requests of the trace.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Leave longer requests out. Default: the model's.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Of a trace of sessions: so many at once."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Of a trace of sessions: so many begin a second, at random (Poisson)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the sweep, and only that, as JSON.")
    ] = False,
) -> None:
    """Replay TRACE on KV pools of many sizes: hit rate, throughput and waits against memory.

    In the simulator: hits are those of this scheduler and prefix cache under these arrivals,
    seconds are modelled. Ctrl-C ends it early and shows the sizes that are done; then it
    exits with 130.
    """
    from penstock.cli.cached import fleet_of, refuse_idle
    from penstock.cli.parse import given, positive, read
    from penstock.plan import cache as plan
    from penstock.plan import cache_sizes as several
    from penstock.workload.traces import read_trace

    params = context_.params
    refuse_idle(params, given(context_))
    for option, value in (("--speed", speed), ("--rate", rate)):
        if value is not None:
            read(option, positive, str(value))
    try:
        described = fleet_of(params)
        taken = read_trace(trace, limit)
        asked = plan.question(
            described,
            taken,
            trace.name,
            page_tokens=page_tokens or (None if fleet else several.page_for(taken)),
            context=context,
            speed=speed,
            concurrency=concurrency,
            rate=rate,
            seed=seed,
        )
        chosen = (
            several.grid(asked, points or several.POINTS)
            if sizes is None
            else several.checked(
                asked, [several.tokens_of(text, asked.bytes_per_token) for text in sizes.split(",")]
            )
        )
    except (ValueError, OSError) as error:
        _fail(str(error))
    closer = sizes is None
    whole = 1 + len(chosen) + plan.HALVINGS * closer
    found, interrupted = _watched(plan.pools(asked, chosen, closer=closer), whole)
    if not found:
        _fail("interrupted before the first size was simulated", code=130)
    made = plan.sweep(asked, found, interrupted=interrupted)
    try:
        tell(made, "cache", html=html, png=png, json=json)
    except OSError as error:
        _fail(str(error))
    if interrupted:
        raise typer.Exit(130)


def _watched(pools: Iterator[Pool], whole: int) -> tuple[list[Pool], bool]:
    """The pools, as far as Ctrl-C lets them come, and whether it came."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    found: list[Pool] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("a pool that never forgets", total=whole)
        try:
            for pool in pools:
                found.append(pool)
                said = f"{pool.size}: {pool.hit_rate:.1%} hits"
                bar.update(task, advance=1, description=said)
        except KeyboardInterrupt:
            return found, True
        bar.update(task, total=len(found))
    return found, False


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"penstock cache: {message}", file=sys.stderr)
    raise typer.Exit(code)
