"""`penstock limits`: what the hardware allows a model, what binds, and what would change it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def limits(
    model: Annotated[
        str,
        typer.Argument(
            help="A model by name (llama-3.1-8b), by hub id, or the folder of a config.json."
        ),
    ],
    *,
    on: Annotated[
        str, typer.Option(help="Hardware: a name of `penstock hardware`, or a sheet FILE.toml.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Format of the weights: bf16, fp8, fp4 ...; as published if absent."),
    ] = None,
    kv: Annotated[str, typer.Option(help="Format of K and V.")] = "bf16",
    tp: Annotated[int, typer.Option(help="Devices that share every layer.")] = 1,
    pp: Annotated[int, typer.Option(help="Groups that hold the layers one after the other.")] = 1,
    ep: Annotated[int, typer.Option(help="Parts that hold whole experts, of tp x dp.")] = 1,
    dp: Annotated[int, typer.Option(help="Groups that take different sequences.")] = 1,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 1024,
    output: Annotated[int, typer.Option(help="Tokens of an answer.")] = 256,
    batch: Annotated[
        str | None,
        typer.Option(help="Sequences in a step, such as 1,8,64; 1 to the most that fit if absent."),
    ] = None,
    what_if: Annotated[
        bool,
        typer.Option(
            "--what-if",
            help="Predict what would change throughput, at the largest --batch (or 32).",
        ),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="A what-if of this size, such as bandwidth=1.5, weights=fp4, speculation=0.6, "
            "batching=4, memory=2, kv=fp8, latency=0.5, requests=10, capacity=2; repeatable."
        ),
    ] = None,
    memory_share: Annotated[
        float, typer.Option(help="Share of each device's memory that may be used.")
    ] = 0.9,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the limits, and only them, as JSON.")
    ] = False,
) -> None:
    """Say what the hardware allows: ceilings by phase and batch, KV capacity, and what binds."""
    import msgspec

    from penstock.cli.parse import counts, read
    from penstock.plan.limits import limits as find
    from penstock.plan.point import Point
    from penstock.plan.whatif import asked_for
    from penstock.plan.whatif import what_if as predict
    from penstock.predict.architecture import architecture
    from penstock.predict.deployment import Deployment
    from penstock.predict.sheet import device

    at = read("--batch", counts, batch) if batch is not None else ()
    if not 0 < memory_share <= 1:
        raise typer.BadParameter(f"{memory_share} must lie in (0, 1]", param_hint="--memory-share")
    try:
        shape = architecture(model)
        placed = Deployment(
            shape, device(on), weights or shape.weights, kv, tp=tp, pp=pp, ep=ep, dp=dp
        )
        found = find(placed, prompt, output, at, share=memory_share)
        predictions = []
        if what_if or change:
            requests = max(at) if at else min(32, found.largest_batch)
            point = Point(placed, prompt, output, requests, share=memory_share)
            predictions = predict(point, asked_for(change) if change else None)
    except ValueError as error:
        _fail(str(error))
    if json:
        value = {**msgspec.to_builtins(found), "what_if": msgspec.to_builtins(predictions)}
        print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())
    else:
        from rich.console import Console

        from penstock.report.limits import show

        show(found, predictions, Console())
    try:
        if html is not None:
            from penstock.report.limits import write_html

            write_html(found, predictions, html)
        if png is not None:
            from penstock.report.limits import write_png

            write_png(found, predictions, png)
    except OSError as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"penstock limits: {message}", file=sys.stderr)
    raise typer.Exit(1)
