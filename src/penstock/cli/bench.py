"""`penstock bench`: measure a server, the engine, or, with no target, our own small model."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from penstock.meter.bench import Progress
    from penstock.meter.driver import Drive
    from penstock.meter.options import Options
    from penstock.meter.target import Target
    from penstock.record.run import Run
    from penstock.workload.arrivals import Arrival

EMBEDDED = "embedded"
T = TypeVar("T")


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
            help="Closed loop: so many requests always under way, comma-separated. "
            "Default: 1,16; 16 with --tasks."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Open loop instead: Poisson arrivals per second, comma-separated."),
    ] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            help="Open loop instead, by another law: constant:5, gamma:5,0.5 (shape; below 1 is "
            "burstier than Poisson), ramp:1-20,60, spike:2,20,10-15, diurnal:5,0.8,3600."
        ),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            help="What is asked: plain, prefix:GROUPS,TOKENS, rag:DOCUMENTS,TOKENS, "
            "sessions:TURNS,THINK or agent; or a preset with lengths, load and limits: "
            "voice, chat, coding, batch."
        ),
    ] = "plain",
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of each prompt.")] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Open loop instead: arrivals, lengths and shared prefixes of a trace (Azure, "
            "BurstGPT, Mooncake, agentic coding, or the directory of a run)."
        ),
    ] = None,
    speed: Annotated[float, typer.Option(help="Replay the trace so many times as fast.")] = 1.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take so many requests of the trace, or tasks.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests at each operating point.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds of load at each operating point. "
            "Default: 30; 600 with --requests, --trace or --tasks."
        ),
    ] = None,
    max_tokens_total: Annotated[
        int, typer.Option(min=1, help="End after so many tokens, prompts and answers together.")
    ] = 2_000_000,
    input_len: Annotated[
        str,
        typer.Option(help="Tokens in a prompt: 128, 64-256, normal:256,64 or lognormal:256,200."),
    ] = "64-256",
    output_len: Annotated[
        str, typer.Option(help="Tokens in an answer, written the same way.")
    ] = "32-160",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl file of prompts, used as they are, or a text to cut prompts from. "
            "Default: standard-library sources."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Ask questions and grade the answers: doctests, humaneval:PATH, gsm8k:PATH or "
            "a FILE.jsonl of your own."
        ),
    ] = None,
    samples: Annotated[
        str,
        typer.Option(
            help="Ask each task so many times and count the answer most give, comma-separated: "
            "an operating point each."
        ),
    ] = "1",
    few_shot: Annotated[
        int | None,
        typer.Option(
            min=0, help="Worked examples before each task. Default: 4; humaneval and your own: 0."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0, max=2, help="Of tasks' answers. Default: 0; 0.8 where --samples has more than 1."
        ),
    ] = None,
    unsafe_sandbox: Annotated[
        bool,
        typer.Option(
            "--unsafe-sandbox",
            help="Run answers as programs even where this system cannot shut off network, "
            "processes and files.",
        ),
    ] = False,
    think: Annotated[
        float, typer.Option(min=0, help="Closed loop: seconds between an answer and the next.")
    ] = 0.0,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="First requests that are warm-up. Default: one a slot; open loop: a tenth.",
        ),
    ] = None,
    slo: Annotated[
        str, typer.Option(help="Limits a good request meets: ttft<0.5s,tpot<50ms,e2e<10s.")
    ] = "",
    rules: Annotated[
        str | None,
        typer.Option(
            help="Hold the verdict to stricter rules: mlperf, or mlperf:MODEL/SCENARIO "
            "(server, interactive, offline)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to ask for, where the server has several.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens the model holds, where the server does not tell."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat API.")] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="PENSTOCK_API_KEY", help="Sent as a bearer token.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The model's tokenizer.json (or its directory), to count exactly."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a request has failed.")
    ] = 600.0,
    seed: Annotated[int, typer.Option(min=0, help="Of lengths, prompts and arrivals.")] = 0,
    salt: Annotated[
        str | None,
        typer.Option(
            help="Opens every prompt, so that no cache knows it. Default: fresh in each run."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the run. Default: a new one under runs/.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary, and only that, as JSON.")
    ] = False,
    html: Annotated[bool, typer.Option(help="Write report.html beside the run.")] = True,
) -> None:
    """Measure how many tokens per second TARGET delivers, and how long users wait.

    Bounded by default: 30 s of load at each operating point. Ctrl-C ends the
    run early and reports what there is. Exits 1 if no request finished, 130 if
    interrupted.
    """
    from penstock.meter.options import Options
    from penstock.meter.target import TargetError
    from penstock.record.slo import parse_slos
    from penstock.workload.arrivals import parse_arrival
    from penstock.workload.lengths import parse_lengths
    from penstock.workload.presets import parse_workload

    if rate is not None and arrival is not None:
        raise typer.BadParameter("choose one of them", param_hint="--rate and --arrival")
    given = _given(context_)
    law = "--rate" if rate is not None else "--arrival" if arrival is not None else None
    waits = trace is not None and trace.exists() and _read("--trace", _has_sessions, str(trace))
    _refuse_idle(given, target, law, trace, prompts, tasks=tasks, trace_waits=waits)
    for option, path in (("--prompts", prompts), ("--trace", trace), ("--tokenizer", tokenizer)):
        # A trace may be one operating point of a run: runs/x#2.
        if path is not None and not Path(str(path).partition("#")[0]).exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint=option)
    asked = _read("--workload", parse_workload, workload)
    arrivals = _read("--rate", _rates, rate) if rate is not None else ()
    if arrival is not None:
        arrivals = (_read("--arrival", parse_arrival, arrival),)
    elif asked.arrival and rate is None and "concurrency" not in given:
        arrivals = (asked.arrival,)
    slots = concurrency or ("16" if tasks else str(asked.concurrency or "1,16"))
    options = Options(
        concurrency=_read("--concurrency", _counts, slots),
        arrivals=arrivals,
        workload=asked,
        n=n,
        trace=trace,
        speed=_read("--speed", _positive, str(speed)),
        limit=limit,
        requests=requests,
        duration_s=None if duration is None else _read("--duration", _positive, str(duration)),
        tokens=max_tokens_total,
        input_len=_read(
            "--input-len",
            parse_lengths,
            input_len if "input_len" in given else str(asked.input_len or input_len),
        ),
        output_len=_read(
            "--output-len",
            parse_lengths,
            output_len if "output_len" in given else str(asked.output_len or output_len),
        ),
        prompts=prompts,
        think_s=think,
        warmup=warmup,
        context=context,
        seed=seed,
        salt=salt,
        slos=tuple(_read("--slo", parse_slos, slo or asked.slos)),
        rules=rules,
        tasks=tasks,
        samples=_read("--samples", _counts, samples),
        few_shot=few_shot,
        temperature=temperature,
        unsafe_sandbox=unsafe_sandbox,
    )
    counting = _tokenizer(tokenizer, target)
    opening = _opening(
        target,
        model=model,
        chat=chat,
        api_key=api_key,
        tokenizer=counting,
        timeout_s=timeout,
    )
    try:
        run = _measure(opening, options, counting)
    except (TargetError, ValueError, OSError) as error:
        _fail(str(error))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _fail("interrupted before the first request", code=130)
    _keep(run, out, html)
    _show(run, json)
    if run.interrupted:
        raise typer.Exit(130)
    if not any(point["completed"] for point in run.summary["points"]):
        raise typer.Exit(1)


def _given(context: typer.Context) -> set[str]:
    """Which options were written, rather than left at their defaults."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def _has_sessions(trace: str) -> bool:
    """Whether a trace's requests wait for answers, so that it needs a load of its own."""
    from penstock.workload.traces import read_trace

    return read_trace(Path(trace), limit=1).sessions is not None


def _refuse_idle(
    given: set[str],
    target: str | None,
    law: str | None,
    trace: Path | None,
    prompts: Path | None,
    *,
    tasks: str | None,
    trace_waits: bool,
) -> None:
    """Refuse what was given and would change nothing; `law` is the option of an open loop."""
    timed = trace is not None and not trace_waits
    if law is not None and timed:
        raise typer.BadParameter("choose one of them", param_hint=f"{law} and --trace")
    in_process = target is not None and target.startswith("engine:")
    for idle, why, names in (
        (
            law or timed,
            "belongs to a closed loop, without --rate, --arrival or --trace",
            "concurrency think",
        ),
        (not trace, "belongs to a --trace", "speed"),
        (not trace and not tasks, "belongs to a --trace or to --tasks", "limit"),
        (not tasks, "belongs to --tasks", "samples few_shot temperature unsafe_sandbox"),
        (
            tasks,
            "has no use with --tasks (how many of them: --limit)",
            "trace requests input_len output_len prompts salt workload n",
        ),
        (
            trace,
            "is set by the trace (how much of it: --limit)",
            "requests input_len output_len workload",
        ),
        (prompts and prompts.suffix == ".jsonl", "is set by the file of --prompts", "input_len"),
        (in_process, "belongs to a server, not to an engine in this process", "chat timeout n"),
        (in_process or not target, "belongs to the address of a server", "model api_key"),
    ):
        for name in names.split():
            if idle and name in given:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(f"this {why}; leave it out", param_hint=option)


def _opening(
    target: str | None,
    *,
    model: str | None,
    chat: bool,
    api_key: str | None,
    tokenizer: Tokenizer | None,
    timeout_s: float,
) -> contextlib.AbstractAsyncContextManager[Target]:
    """How to open the target; whatever runs only for the measurement ends with it."""
    from penstock.meter.http import HttpTarget
    from penstock.meter.local import served

    @contextlib.asynccontextmanager
    async def http(url: str) -> AsyncIterator[Target]:
        opened = await HttpTarget.open(
            url,
            model=model,
            chat=chat,
            api_key=api_key,
            tokenizer=tokenizer,
            timeout_s=timeout_s,
        )
        try:
            yield opened
        finally:
            await opened.close()

    @contextlib.asynccontextmanager
    async def embedded() -> AsyncIterator[Target]:
        print("Starting the embedded model ...", file=sys.stderr)
        async with served([EMBEDDED, "--port", "0"]) as url, http(url) as opened:
            yield opened

    @contextlib.asynccontextmanager
    async def engine(name: str) -> AsyncIterator[Target]:
        from penstock.serve.inprocess import EngineTarget

        opened = EngineTarget(name)
        try:
            yield opened
        finally:
            await opened.close()

    if target is None:
        _need_engine("The embedded model")
        return embedded()
    if target.startswith("engine:"):
        _need_engine(target)
        return engine(target.removeprefix("engine:"))
    if target.startswith(("http://", "https://")):
        return http(target)
    raise typer.BadParameter(
        f"{target!r} is neither an http:// or https:// address nor engine:MODEL",
        param_hint="TARGET",
    )


def _measure(
    opening: contextlib.AbstractAsyncContextManager[Target],
    options: Options,
    tokenizer: Tokenizer | None,
) -> Run:
    from penstock.meter import bench as meter

    progress = meter.Progress()

    async def main() -> Run:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if progress.drive is None:
                task.cancel()
            progress.interrupt()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        async with opening as target:
            watching = asyncio.create_task(_watch(progress))
            try:
                return await meter.bench(target, options, tokenizer, progress)
            finally:
                watching.cancel()
                await asyncio.wait({watching})

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Make loops of uvloop where it is installed: less CPU for each event."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _watch(progress: Progress) -> None:
    """Say how it goes: a line that renews itself, or one every ten seconds in a log.

    Plain writes, because they happen beside the clock; a table would take
    milliseconds to draw.
    """
    live = sys.stderr.isatty()
    begin, end = ("\r\x1b[K", "") if live else ("", "\n")
    try:
        while True:
            await asyncio.sleep(0.5 if live else 10)
            if progress.drive is not None and not progress.drive.end_ns:
                print(
                    begin + _state(progress, progress.drive), end=end, file=sys.stderr, flush=True
                )
            elif progress.graded < progress.to_grade:
                state = f"graded {progress.graded:,} of {progress.to_grade:,} answers"
                print(begin + state, end=end, file=sys.stderr, flush=True)
    finally:
        print(begin, end="", file=sys.stderr, flush=True)


def _state(progress: Progress, drive: Drive) -> str:
    load = drive.plan.load
    offered = f"{load.concurrency} at once" if load.concurrency else f"{load.rate or 0:.3g} req/s"
    seconds = max((monotonic_ns() - drive.start_ns) * 1e-9, 1e-9)
    return (
        f"[{progress.point}/{progress.points}] {offered}: {seconds:.0f} s, {drive.done} answered, "
        f"{drive.in_flight} under way, {drive.failed} failed, "
        f"{drive.output_tokens / seconds:,.0f} output tokens/s"
    )


def _keep(run: Run, out: Path | None, html: bool) -> None:
    """Write run directory and report."""
    from penstock.record.run import save

    directory = out or Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
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
        import msgspec

        text = msgspec.json.format(msgspec.json.encode(run.summary), indent=1)
        print(text.decode())
        return
    from rich.console import Console

    from penstock.report.terminal import show

    show(run, Console())


def _tokenizer(path: Path | None, target: str | None) -> Tokenizer | None:
    """The target's tokenizer, where it was given or is our own model's."""
    from penstock import models

    if path is None:
        if target is not None and not target.startswith("engine:"):
            return None
        try:
            path = models.path(target.removeprefix("engine:") if target else EMBEDDED)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="TARGET") from error
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise typer.BadParameter(f"{file}: {error}", param_hint="--tokenizer") from error


def _need_engine(what: str) -> None:
    if importlib.util.find_spec("torch") is None:
        _fail(f"{what} needs PyTorch. Run: pip install 'penstock[engine]'", code=2)


def _read(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(",") if part.strip().isdigit())
    if not counts or len(counts) != len(text.split(",")) or min(counts) < 1:
        raise ValueError(f"{text!r} is no list of counts from 1; write 1,4,16")
    return counts


def _rates(text: str) -> tuple[Arrival, ...]:
    from penstock.workload.arrivals import Poisson

    return tuple(Poisson(_positive(part)) for part in text.split(","))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is no number above zero")
    return value


def _fail(message: str, code: int = 1) -> None:
    print(f"penstock bench: {message}", file=sys.stderr)
    raise typer.Exit(code)
