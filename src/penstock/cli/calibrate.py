"""`penstock calibrate`: a step-time model from a run or a server's log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock.predict.calibrate import Calibration
    from penstock.predict.stepfile import Named


def calibrate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run of `penstock bench`, or the directory of a server's log (requests.jsonl, "
            "timeseries.csv, meta.json).",
        ),
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option(help="What was served: fits efficiencies of its physics. Needs --on."),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="The hardware: a name of `penstock hardware`, or FILE.toml.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Format of the weights; as published if absent.")
    ] = None,
    kv: Annotated[str, typer.Option(help="Format of K and V.")] = "bf16",
    tp: Annotated[int, typer.Option(help="Devices that share every layer.")] = 1,
    pp: Annotated[int, typer.Option(help="Groups that hold the layers one after the other.")] = 1,
    ep: Annotated[int, typer.Option(help="Parts that hold whole experts, of tp x dp.")] = 1,
    dp: Annotated[int, typer.Option(help="Groups that take different sequences.")] = 1,
    step_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most prompt tokens that one step of the server takes; 2048 if absent, "
            "512 for our engine, and a log tells its own.",
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of a server's log, use only the first so many seconds."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the step time here, as `plan` and `sim:` fleets read it (TOML)."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write a picture of predicted against measured here.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the calibration, and only that, as JSON.")
    ] = False,
    root: Annotated[Path, typer.Option("--runs", help="Where runs are looked for.")] = Path("runs"),
) -> None:
    """Fit how long this server's steps take, with intervals, from what was seen of it.

    With --model and --on, which share of the hardware's rates is reached;
    without, what each token, sequence and step costs, for a server of which nothing is known.
    """
    import msgspec

    from penstock.predict.stepfile import Named, write

    if (model is None) != (on is None):
        raise typer.BadParameter(
            "--model and --on go together: physics needs both. Give both, or neither to fit "
            "costs alone.",
            param_hint="--model / --on",
        )
    try:
        named = None
        if model is not None and on is not None:
            from penstock.predict.architecture import architecture

            format_ = weights or architecture(model).weights
            named = Named(
                model=model, device=on, weights=format_, kv=kv, tp=tp, pp=pp, ep=ep, dp=dp
            )
        made = _fit(run, root, named, step_tokens=step_tokens, until=until, seed=seed)
        if out is not None:
            write(made.file, out)
    except (ValueError, OSError) as error:
        _fail(str(error))
    if json:
        from penstock.report.calibration import as_json

        print(msgspec.json.format(msgspec.json.encode(as_json(made)), indent=1).decode())
    else:
        from rich.console import Console

        from penstock.report.calibration import show

        show(made, out, Console())
    if png is not None:
        from penstock.report.calibration import write_png

        try:
            write_png(made, png)
        except OSError as error:
            _fail(str(error))


def _fit(
    run: str,
    root: Path,
    named: Named | None,
    *,
    step_tokens: int | None,
    until: float | None,
    seed: int,
) -> Calibration:
    """Find the run, or the log, and fit. Raises `ValueError`."""
    from penstock.predict.calibrate import calibrate
    from penstock.predict.observe import from_records, spans
    from penstock.predict.serverlog import is_log, read_log
    from penstock.record.library import find
    from penstock.record.run import load

    directory = Path(run)
    if is_log(directory):
        log = read_log(directory, named.device if named else None)
        made = calibrate(log.spans(until), named or log.named, source=run, seed=seed)
        if log.kv_tokens:
            made.file.page_size = log.page_tokens
            made.file.pages = log.kv_tokens // log.page_tokens
        return made
    if until is not None:
        raise ValueError("--until is of a server's log; a run has its own points")
    found = load(find(run, root))
    facts = found.target.get("facts") or {}
    most = step_tokens or (512 if facts else 2048)
    records = [record for point in found.points for record in point.records]
    made = calibrate(spans(from_records(records), most), named, source=run, seed=seed)
    made.file.pages, made.file.page_size = facts.get("pages"), facts.get("page_size")
    return made


def _fail(message: str) -> None:
    print(f"penstock calibrate: {message}", file=sys.stderr)
    raise typer.Exit(1)
