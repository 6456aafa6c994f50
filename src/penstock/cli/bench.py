"""`penstock bench`: measure a server, the engine, or, with no target, our own small model."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from penstock.cli.targets import Opening
    from penstock.meter.options import Options
    from penstock.record.run import Run

LOAD, WORKLOAD, TASKS = "Load", "Workload", "Tasks, whose answers are graded"
SEARCH, JUDGING, ASKING, OUTPUT = "Search", "Limits, verdict and cost", "How to ask", "Output"


def bench(
    context_: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="http://HOST:PORT of an OpenAI-compatible server, or engine:MODEL for our engine "
            "in this process. Without it: the embedded model behind our own server."
        ),
    ] = None,
    *,
    concurrency: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOAD,
            help="Closed loop: so many requests always under way, comma-separated. "
            "Default: 1,16; 16 with --tasks; 1 to begin a search.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOAD,
            help="Open loop instead: Poisson arrivals per second, comma-separated.",
        ),
    ] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOAD,
            help="Open loop instead, by another law: constant:5, gamma:5,0.5 (shape; below 1 is "
            "burstier than Poisson), ramp:1-20,60, spike:2,20,10-15, diurnal:5,0.8,3600.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=LOAD,
            help="Open loop instead: arrivals, lengths and shared prefixes of a trace (Azure, "
            "BurstGPT, Mooncake, agentic coding, or the directory of a run).",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            rich_help_panel=LOAD,
            help="Replay the trace so many times as fast.",
        ),
    ] = 1.0,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="Take so many requests of the trace, or tasks.",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="Requests at each operating point.",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=LOAD,
            help="Seconds of load at each operating point. "
            "Default: 30; 600 with --requests, --trace or --tasks.",
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="Measure every operating point so often, and take intervals over the repeats. "
            "Default: 1; 5 with --interleave.",
        ),
    ] = 1,
    think: Annotated[
        float,
        typer.Option(
            min=0,
            rich_help_panel=LOAD,
            help="Closed loop: seconds between an answer and the next.",
        ),
    ] = 0.0,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=LOAD,
            help="First requests that are warm-up. Default: one a slot; open loop: a tenth.",
        ),
    ] = None,
    max_tokens_total: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="End after so many tokens, prompts and answers together. "
            "Default: 2,000,000; 20,000,000 for a search.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LOAD,
            help="Processes that send. Default: as many as the load calls for.",
        ),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            "--preset",
            rich_help_panel=WORKLOAD,
            help="What is asked: plain, prefix:GROUPS,TOKENS, rag:DOCUMENTS,TOKENS, "
            "sessions:TURNS,THINK or agent; or a preset with lengths, load and limits: "
            "voice, chat, coding, batch.",
        ),
    ] = "plain",
    input_len: Annotated[
        str,
        typer.Option(
            rich_help_panel=WORKLOAD,
            help="Tokens in a prompt: 128, 64-256, normal:256,64 or lognormal:256,200.",
        ),
    ] = "64-256",
    output_len: Annotated[
        str,
        typer.Option(
            rich_help_panel=WORKLOAD,
            help="Tokens in an answer, written the same way.",
        ),
    ] = "32-160",
    n: Annotated[
        int,
        typer.Option(
            "--n",
            min=1,
            rich_help_panel=WORKLOAD,
            help="Samples of each prompt, in one request.",
        ),
    ] = 1,
    prompts: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=WORKLOAD,
            help="A .jsonl file of prompts, used as they are, or a text to cut prompts from. "
            "Default: standard-library sources.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            rich_help_panel=WORKLOAD,
            help="Of lengths, prompts and arrivals.",
        ),
    ] = 0,
    salt: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=WORKLOAD,
            help="Opens every prompt, so that no cache knows it. Default: fresh in each run.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=TASKS,
            help="Ask questions and grade the answers: doctests, humaneval:PATH, gsm8k:PATH or "
            "a FILE.jsonl of your own.",
        ),
    ] = None,
    samples: Annotated[
        str,
        typer.Option(
            rich_help_panel=TASKS,
            help="Ask each task so many times and count the answer most give, comma-separated: "
            "an operating point each.",
        ),
    ] = "1",
    few_shot: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=TASKS,
            help="Worked examples before each task. Default: 4; humaneval and your own: 0.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=2,
            rich_help_panel=TASKS,
            help="Of tasks' answers. Default: 0; 0.8 where --samples has more than 1.",
        ),
    ] = None,
    unsafe_sandbox: Annotated[
        bool,
        typer.Option(
            "--unsafe-sandbox",
            rich_help_panel=TASKS,
            help="Run answers as programs even where this system cannot shut off network, "
            "processes and files.",
        ),
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            rich_help_panel=SEARCH,
            help="Climb the load until throughput grows no more or the server falls behind: "
            "requests at once, from --concurrency up, or the rate of --rate or --arrival.",
        ),
    ] = False,
    capacity: Annotated[
        bool,
        typer.Option(
            "--capacity",
            rich_help_panel=SEARCH,
            help="Search for the highest load at which 99 % of the requests (or the quantile a "
            "limit names) meet every limit of --slo, with its interval: some 25 trials of "
            "--duration. After --sweep it begins where that ended.",
        ),
    ] = False,
    interleave: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SEARCH,
            help="A second target, measured in alternation with the first, and compared.",
        ),
    ] = None,
    slo: Annotated[
        str,
        typer.Option(
            rich_help_panel=JUDGING,
            help="Limits a good request meets: ttft<0.5s,tpot.p99<50ms,e2e<10s.",
        ),
    ] = "",
    rules: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=JUDGING,
            help="Hold the verdict to stricter rules: mlperf, or mlperf:MODEL/SCENARIO "
            "(server, interactive, offline).",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            rich_help_panel=JUDGING,
            help="Exit 4 where the verdict is INVALID.",
        ),
    ] = False,
    price: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=JUDGING,
            help="What it costs: 2.5/h for the hardware, or "
            "in=0.15,cached=0.075,out=0.6,batch=0.5x for a million tokens.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=ASKING,
            help="Model to ask for, where the server has several.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=2,
            rich_help_panel=ASKING,
            help="Tokens the model holds, where the server does not tell.",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--completions",
            rich_help_panel=ASKING,
            help="Which API to use. Default: completions, or chat where there is no other.",
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream/--no-stream",
            rich_help_panel=ASKING,
            help="Whether answers come token by token. Without, only their total time is known.",
        ),
    ] = True,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PENSTOCK_API_KEY",
            rich_help_panel=ASKING,
            help="Sent as a bearer token.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=ASKING,
            help="The model's tokenizer.json (or its directory), to count exactly.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            rich_help_panel=ASKING,
            help="Seconds after which a request has failed.",
        ),
    ] = 600.0,
    out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Directory for the run. Default: a new one under runs/.",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=OUTPUT,
            help="Print the summary, and only that, as JSON.",
        ),
    ] = False,
    html: Annotated[
        bool,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Write report.html beside the run.",
        ),
    ] = True,
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
    asking = Asking(model=model, chat=chat, stream=stream, api_key=api_key, timeout_s=timeout)
    targets = [opening(target, asking, counting)]
    if interleave is not None:
        targets.append(opening(interleave, asking, counting))
    runs = _measured(targets, options, counting)
    directory = out or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if interleave is None:
        _keep(runs[0], directory, html)
        _show(runs[0], json)
    else:
        for run, name in zip(runs, "ab", strict=True):
            _keep(run, directory / name, html)
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


def _keep(run: Run, directory: Path, html: bool) -> None:
    """Write run directory and report."""
    from penstock.record.run import save

    run.summary["run_dir"] = str(directory)
    if html:
        run.summary["html"] = str(directory / "report.html")
    try:
        save(run, directory)
        if html:
            from penstock.report.html import write

            write(run, directory / "report.html")
    except OSError as error:
        _fail(f"cannot write the run: {error}. Choose another --out.")


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
