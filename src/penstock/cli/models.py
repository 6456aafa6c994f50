"""`penstock models`: what can be run by name, and checkpoints of random weights at real shapes."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List models, make checkpoints of random weights at real shapes.")


class Dtype(StrEnum):
    """Precision the weights are written in."""

    BF16 = "bf16"
    FP32 = "fp32"


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List what comes with the package, and the shapes that can be made."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List what comes with the package, and the shapes that can be made."""
    import json

    from rich.console import Console
    from rich.table import Table

    from penstock import models as known
    from penstock.models.shapes import SHAPES

    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("model", "parameters", "layers, hidden", "vocabulary", "weights", ""):
        grid.add_column(name)
    trained = json.loads((known.path(known.SHIPPED[0]).parent / "results.json").read_bytes())
    for name in known.SHIPPED:
        config = json.loads((known.path(name) / "config.json").read_bytes())
        grid.add_row(
            name,
            f"{trained['models'][name]['parameters'] / 1e6:,.1f} M",
            f"{config['num_hidden_layers']} x {config['hidden_size']:,}",
            f"{config['vocab_size']:,}",
            "trained",
            "in the package",
        )
    for name, shape in SHAPES.items():
        grid.add_row(
            name,
            f"{shape.parameters / 1e6:,.1f} M",
            f"{shape.layers} x {shape.hidden:,}",
            f"{shape.vocab:,}",
            "random",
            "made" if (known.cache() / name).is_dir() else "",
        )
    Console().print(grid)
    print(
        f"\nRandom weights are for speed alone. `penstock models make NAME` writes them to\n"
        f"{known.cache()}/"
    )


@app.command()
def make(
    shape: Annotated[str, typer.Argument(help="One of those that `penstock models` lists.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The directory to write; in the cache if absent.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = Dtype.BF16,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    vocab: Annotated[
        int | None, typer.Option(min=1, help="Tokens; as many as the real model's if absent.")
    ] = None,
) -> None:
    """Write a checkpoint of random weights in Hugging Face layout, to measure speed with.

    Left in the cache it can be named by its shape wherever a model is. What
    reports quality refuses it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from penstock import models as known
    from penstock.models import synthetic
    from penstock.models.shapes import SHAPES

    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape!r} is none of {', '.join(SHAPES)}", param_hint="SHAPE")
    if vocab is not None and out is None:
        # In the cache the name alone would tell the two apart, and it cannot.
        raise typer.BadParameter("this is no longer the shape; give --out", param_hint="--vocab")
    sizes = SHAPES[shape] if vocab is None else replace(SHAPES[shape], vocab=vocab)
    directory = out or known.cache() / shape
    bar = Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    try:
        with bar:
            task = bar.add_task(shape, total=None)
            synthetic.make(
                sizes,
                directory,
                dtype=dtype.value,
                seed=seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (ValueError, OSError) as error:
        print(f"penstock models: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("penstock models: interrupted; nothing is left behind.", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"{directory} holds random weights at the shape of {shape}.")
