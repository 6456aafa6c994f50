"""`penstock bench`: measure a server, the engine, or, with no target, our own small model."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from penstock.cli.options import asking, content, grading, judging, load, output, search

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from penstock.cli.targets import Opening
    from penstock.meter.options import Options
    from penstock.record.run import Run


def bench(
    context_: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="http://HOST:PORT of an OpenAI-compatible server, engine:MODEL for our engine "
            "in this process, or sim:FILE.toml for a simulated fleet. Without it: the embedded "
            "model behind our own server."
        ),
    ] = None,
    *,
    concurrency: load.Concurrency = None,
    rate: load.Rate = None,
    arrival: load.Arrival = None,
    trace: load.Trace = None,
    speed: load.Speed = 1.0,
    limit: load.Limit = None,
    requests: load.Requests = None,
    duration: load.Duration = None,
    repeats: load.Repeats = None,
    think: load.Think = 0.0,
    warmup: load.Warmup = None,
    max_tokens_total: load.MaxTokensTotal = None,
    workers: load.Workers = None,
    workload: content.Workload = "plain",
    input_len: content.InputLen = "64-256",
    output_len: content.OutputLen = "32-160",
    n: content.N = 1,
    prompts: content.Prompts = None,
    compress_prompts: content.CompressPrompts = None,
    compress_model: content.CompressModel = "embedded-draft",
    seed: content.Seed = 0,
    salt: content.Salt = None,
    tasks: grading.Tasks = None,
    samples: grading.Samples = "1",
    few_shot: grading.FewShot = None,
    temperature: grading.Temperature = None,
    unsafe_sandbox: grading.UnsafeSandbox = False,
    sweep: search.Sweep = False,
    capacity: search.Capacity = False,
    interleave: search.Interleave = None,
    slo: judging.Slo = "",
    rules: judging.Rules = None,
    strict: judging.Strict = False,
    price: judging.Price = None,
    model: asking.Model = None,
    context: asking.Context = None,
    chat: asking.Chat = None,
    stream: asking.Stream = True,
    api_key: asking.ApiKey = None,
    tokenizer: asking.Tokenizer = None,
    timeout: asking.Timeout = 600.0,
    out: output.Out = None,
    json: output.Json = False,
    html: output.Html = True,
    png: output.Png = False,
) -> None:
    """Measure how many tokens per second TARGET delivers, and how long users wait.

    Bounded by default: 30 s of load at each operating point. Ctrl-C ends the
    run early and reports what there is. Exits 0 when it measured, whatever the
    verdict; 1 if no request finished; 2 for options that cannot be used; 4 with
    --strict where the verdict is INVALID; 130 if interrupted.
    """
    from penstock.cli.asked import options_of, refuse_idle
    from penstock.cli.parse import given
    from penstock.cli.targets import Asking, opening, tokenizer_of

    written = given(context_)
    refuse_idle(context_.params, written)
    options = options_of(context_.params, written)
    counting = tokenizer_of(tokenizer, target)
    how = Asking(
        model=model, chat=chat, stream=stream, api_key=api_key, timeout_s=timeout, seed=seed
    )
    targets = [opening(target, how, counting)]
    if interleave is not None:
        targets.append(opening(interleave, how, counting))
    runs = _measured(targets, options, counting)
    directory = out or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if interleave is None:
        _keep(runs[0], directory, html, png)
        _show(runs[0], json)
    else:
        for run, name in zip(runs, "ab", strict=True):
            _keep(run, directory / name, html, png)
        _show_both(runs, json)
    if any(run.interrupted for run in runs):
        raise typer.Exit(130)
    if not all(any(point["completed"] for point in run.summary["points"]) for run in runs):
        raise typer.Exit(1)
    if strict and not all(run.summary["verdict"]["valid"] for run in runs):
        raise typer.Exit(4)


def _measured(targets: list[Opening], options: Options, tokenizer: Tokenizer | None) -> list[Run]:
    """One run of each target, in alternation where there are two."""
    from contextlib import AsyncExitStack

    from penstock.cli.watch import watched
    from penstock.meter.bench import Progress, bench, bench_both
    from penstock.meter.target import TargetError

    async def measure(progress: Progress) -> list[Run]:
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(target) for target in targets]
            if len(opened) > 1:
                return await bench_both(opened, options, tokenizer, progress)
            return [await bench(opened[0], options, tokenizer, progress)]

    try:
        return watched(measure)
    except (TargetError, ValueError, OSError) as error:
        _fail(str(error))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _fail("interrupted before the first request", code=130)


def _keep(run: Run, directory: Path, html: bool, png: bool) -> None:
    """Write run directory, report and picture."""
    from penstock.record.run import save

    run.summary["run_dir"] = str(directory)
    if html:
        run.summary["html"] = str(directory / "report.html")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if png:
            _draw(run, directory / "report.png")
        save(run, directory)
        if html:
            from penstock.report.html import write

            write(run, directory / "report.html")
    except OSError as error:
        _fail(f"cannot write the run: {error}. Choose another --out.")


def _draw(run: Run, path: Path) -> None:
    """Write the picture, or say why there is none: the run is worth keeping without."""
    from penstock.report.png import write

    try:
        write(run, path)
    except ValueError as error:
        print(f"penstock bench: --png: {error}", file=sys.stderr)
    else:
        run.summary["png"] = str(path)


def _show(run: Run, json: bool) -> None:
    if json:
        _print(run.summary)
        return
    from rich.console import Console

    from penstock.report.terminal import show

    show(run, Console())


def _show_both(runs: list[Run], json: bool) -> None:
    """Both runs, and whether they differ."""
    import msgspec

    from penstock.record.compare import compare
    from penstock.report.compare import show

    made = compare(runs[0], runs[1])
    if json:
        a, b = (run.summary for run in runs)
        _print({"a": a, "b": b, "comparison": msgspec.to_builtins(made)})
        return
    from rich.console import Console

    for run in runs:
        _show(run, json)
    show(made, [], Console())


def _print(value: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"penstock bench: {message}", file=sys.stderr)
    raise typer.Exit(code)
