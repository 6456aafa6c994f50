"""`penstock compress`: a cheaper checkpoint of a model, and what it costs."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping, Set
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.parse import given
from penstock.cli.told import tell

if TYPE_CHECKING:
    from penstock.compress.run import Compressed, How, Measuring


class Form(StrEnum):
    """Into which integers weights are rounded."""

    INT8 = "int8"
    INT4 = "int4"


class Method(StrEnum):
    """How weights are rounded."""

    RTN = "rtn"
    GPTQ = "gptq"
    AWQ = "awq"


class Order(StrEnum):
    """Which layers go first."""

    LOSS = "loss"
    INFLUENCE = "influence"
    RANDOM = "random"


class Importance(StrEnum):
    """What neurons and heads are kept for."""

    ACTIVATION = "activation"
    TAYLOR = "taylor"


class Pattern(StrEnum):
    """Where single weights may be set to zero."""

    FREE = "free"
    FOURS = "2:4"


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


def compress(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="embedded, or a directory or shape in Hugging Face layout.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    layers: Annotated[
        int | None, typer.Option(min=1, help="Take so many whole layers out.")
    ] = None,
    order: Annotated[
        Order, typer.Option(help="Of layers: missed least in the loss, of least influence, any.")
    ] = Order.LOSS,
    neurons: Annotated[
        float,
        typer.Option(callback=_finite, help="Share of each layer's feed-forward neurons to keep."),
    ] = 1.0,
    heads: Annotated[
        float,
        typer.Option(
            callback=_finite, help="Share of each layer's KV heads, with their queries, to keep."
        ),
    ] = 1.0,
    importance: Annotated[
        Importance, typer.Option(help="Of neurons and heads: by activations, or by gradients.")
    ] = Importance.ACTIVATION,
    uneven: Annotated[
        bool,
        typer.Option("--uneven", help="Of neurons and heads: some layers keep more than others."),
    ] = False,
    zeros: Annotated[
        float | None,
        typer.Option(callback=_finite, help="Set this share of the weights to zero (Wanda)."),
    ] = None,
    pattern: Annotated[Pattern, typer.Option(help="Of --zeros: where they may be.")] = Pattern.FREE,
    swiftkv: Annotated[
        float | None,
        typer.Option(
            callback=_finite,
            help="Prompts stop behind so many layers, or this share of them: all K and V of the "
            "rest are made of what comes out there.",
        ),
    ] = None,
    swiftkv_group: Annotated[
        int, typer.Option(min=1, help="Of --swiftkv: neighbouring layers that share K and V.")
    ] = 1,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            min=0.0,
            callback=_finite,
            help="Train for so many minutes, on what came of it: of --swiftkv "
            "alone W_q, W_k and W_v of the layers behind, else everything.",
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Of --distill: MODEL itself if absent; none to do without.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.1, callback=_finite, help="Of a --distill with a teacher.")
    ] = 1.0,
    truth: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, callback=_finite, help="The text's own share of that loss."),
    ] = 0.1,
    rate: Annotated[
        float, typer.Option(min=0.0, callback=_finite, help="Of --distill: peak learning rate.")
    ] = 5e-4,
    weights: Annotated[Form | None, typer.Option(help="Round the weights to integers.")] = None,
    method: Annotated[
        Method, typer.Option(help="Of --weights: to the nearest, GPTQ, AWQ.")
    ] = Method.GPTQ,
    group: Annotated[int, typer.Option(min=16, help="Inputs of int4 that share a scale.")] = 128,
    act_order: Annotated[
        bool, typer.Option("--act-order", help="Of GPTQ: columns of large inputs first.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Of calibration text.")] = 64,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a row of calibration.")] = 512,
    seed: Annotated[int, typer.Option(help="Of --order random.")] = 0,
    held_out: Annotated[
        int, typer.Option(min=0, help="Rows of 512 held-out tokens to measure on; 0: none.")
    ] = 40,
    tasks: Annotated[int, typer.Option(min=0, help="Doctests of each of five grades.")] = 40,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Do not measure speed.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result, and only that, as JSON.")
    ] = False,
) -> None:
    """Make a cheaper checkpoint: prune, set to zero, stop prompts early, distil, quantize.

    Size, speed and quality are measured before and after. Ctrl-C keeps what is
    finished; the same command goes on from there.
    """
    _refuse_idle(context.params, given(context))
    if missing := [n for n in ("torch", "safetensors") if importlib.util.find_spec(n) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    from penstock.compress.depth import Depth
    from penstock.compress.distill import Distill
    from penstock.compress.quantize import Quantize
    from penstock.compress.run import Measuring
    from penstock.compress.sparse import Sparsify
    from penstock.compress.swiftkv import SwiftKV
    from penstock.compress.width import Width

    recipe: list[How] = []
    if layers is not None:
        recipe.append(Depth(layers=layers, order=order.value, seed=seed))
    if neurons != 1 or heads != 1:
        recipe.append(
            Width(neurons=neurons, heads=heads, importance=importance.value, uneven=uneven)
        )
    if zeros is not None:
        recipe.append(Sparsify(share=zeros, pattern=pattern.value))
    whole = not recipe  # nothing was taken out that all weights must make up for
    if swiftkv is not None:
        recipe.append(SwiftKV(full=swiftkv, group=swiftkv_group))
    if distill is not None:
        above = None if teacher == "none" else teacher or model
        recipe.append(
            Distill(
                minutes=distill,
                teacher=above,
                temperature=temperature,
                truth=truth,
                peak=rate,
                light=whole and swiftkv is not None,
            )
        )
    if weights is not None:
        recipe.append(
            Quantize(
                bits=8 if weights is Form.INT8 else 4,
                method=method.value,
                group=group,
                act_order=act_order,
            )
        )
    if not recipe:
        raise typer.BadParameter(
            "ask for at least one of --layers, --neurons, --heads, --zeros, --swiftkv, "
            "--distill, --weights"
        )
    measuring = Measuring(rows=held_out, tasks=tasks, speed=not no_speed)
    try:
        made = _watched(model, out, recipe, rows=rows, length=length, measuring=measuring)
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(
            f"penstock compress: interrupted; {out}.partial keeps what is finished. The same "
            "command goes on from there; with fewer minutes of --distill it ends sooner.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    _report(made, html, png, json)


def _refuse_idle(params: Mapping[str, Any], given: Set[str]) -> None:
    """Refuse what would change nothing."""
    for idle, why, names in (
        (params["layers"] is None, "--layers", "order seed"),
        (params["order"] != Order.RANDOM, "--order random", "seed"),
        (params["neurons"] == params["heads"] == 1, "--neurons and --heads", "importance uneven"),
        (params["zeros"] is None, "--zeros", "pattern"),
        (params["swiftkv"] is None, "--swiftkv", "swiftkv_group"),
        (params["distill"] is None, "--distill", "teacher temperature truth rate"),
        (params["teacher"] == "none", "a --distill with a teacher", "temperature truth"),
        (params["weights"] is None, "--weights", "method group act_order"),
        (params["weights"] != Form.INT4, "--weights int4", "group"),
        (params["method"] != Method.GPTQ, "--method gptq", "act_order"),
        (params["held_out"] == 0, "a --held-out above 0", "tasks"),
    ):
        for name in names.split():
            if idle and name in given:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(f"this belongs to {why}; leave it out", param_hint=option)


def _watched(
    model: str, out: Path, recipe: list[How], *, rows: int, length: int, measuring: Measuring
) -> Compressed:
    """Compress, with a bar of each part on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from penstock.compress.run import compress as run

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    parts = {}
    with bar:

        def heard(title: str, done: int, total: int) -> None:
            if title not in parts:
                parts[title] = bar.add_task(title, total=total)
            bar.update(parts[title], completed=done, total=total)

        return run(
            model, out, recipe, rows=rows, length=length, measuring=measuring, progress=heard
        )


def _report(made: Compressed, html: Path | None, png: Path | None, json: bool) -> None:
    try:
        tell(made, "compress", html=html, png=png, json=json)
    except OSError as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"penstock compress: {message}", file=sys.stderr)
    raise typer.Exit(1)
