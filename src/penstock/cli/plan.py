"""`penstock plan`: the cheapest fleet for a demand, or the pocket estimate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def plan(
    context: typer.Context,
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model by name (llama-3.1-8b), by hub id, or the folder of a config.json. "
            "Repeat it, or separate by commas, to see them beside each other."
        ),
    ] = None,
    users: Annotated[float | None, typer.Option(help="Users in the busy hour.")] = None,
    requests_per_user_hour: Annotated[
        float, typer.Option(help="Requests of each user in the busy hour.")
    ] = 6.0,
    rate: Annotated[
        float | None, typer.Option(help="Requests/s in the busy hour, instead of --users.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt tokens: 1500, 500-2500, lognormal:1155,1109.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Tokens of an answer, likewise.")] = None,
    slo: Annotated[
        str, typer.Option(help="Limits, comma-separated, such as ttft.p95<1s,tpot.p95<50ms.")
    ] = "ttft.p95<1s,tpot.p95<50ms",
    hardware: Annotated[
        str,
        typer.Option(help="Devices to choose from: names of `penstock hardware`, or sheets .toml."),
    ] = "h100,h200,b200",
    price: Annotated[
        list[str] | None,
        typer.Option(help="A device's dollars an hour, such as h100=2.50; repeatable."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Formats that may be used: bf16,fp8; if absent as published, and fp8."),
    ] = None,
    cached: Annotated[
        float, typer.Option(help="Share of each prompt that a prefix cache holds.")
    ] = 0.0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Leave out fleets with prompts on their own replicas.")
    ] = False,
    steptime: Annotated[
        Path | None,
        typer.Option(help="Step times that `penstock calibrate` wrote, in place of the sheet's."),
    ] = None,
    day: Annotated[
        float | None,
        typer.Option(help="Depth of the day: 0 is even, 1 has nights without a request."),
    ] = None,
    batch_share: Annotated[
        float, typer.Option(help="Share of requests that may wait until the night.")
    ] = 0.0,
    trace: Annotated[
        str | None,
        typer.Option(
            help="A recorded day: a trace of requests, or FILE#WORKLOAD of a table of rates."
        ),
    ] = None,
    startup: Annotated[float, typer.Option(help="Seconds that a new replica needs.")] = 120.0,
    api_price: Annotated[
        list[str] | None,
        typer.Option(
            help="A hosted model's list price: IN,OUT[,CACHED] in dollars a million tokens, or "
            "PRICES.csv#MODEL; repeatable."
        ),
    ] = None,
    quick: Annotated[
        str | None,
        typer.Option(help="The pocket estimate from a speed: 50tps, or 20ms a token."),
    ] = None,
    concurrent: Annotated[int, typer.Option(help="Answers at once, for --quick.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the arrivals and lengths that are replayed.")] = 0,
    fleet: Annotated[
        Path | None,
        typer.Option(help="Write the first fleet here, for `penstock bench sim:FILE.toml`."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the plan, and only that, as JSON.")
    ] = False,
) -> None:
    """Find the cheapest fleets that hold the limits, and say what the answer stands on.

    Ranked by a calculation, settled by replaying the demand in the simulator.
    With --quick: what a speed means to one user, and asks of a system.
    """
    import msgspec
    from rich.console import Console

    from penstock.cli import planned
    from penstock.cli.parse import given
    from penstock.plan import fleetfile
    from penstock.report import plan as report

    params = dict(context.params)
    planned.refuse_idle(params, given(context))
    try:
        if quick is not None:
            pocket = planned.pocket(params)
            _print(msgspec.to_builtins(pocket)) if json else report.show_pocket(pocket, Console())
            return
        plans = planned.plans(params)
        if json:
            _print(msgspec.to_builtins(plans))
        else:
            report.show(plans, Console())
        for path, write in ((html, report.write_html), (png, report.write_png)):
            if path is not None:
                write(plans, path)
        if fleet is not None:
            fleetfile.write(plans.answers[0].sim, fleet, plans.answers[0].fitted)
    except (OSError, ValueError) as error:
        print(f"penstock plan: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _print(value: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())
