"""A whole run: from options to operating points, their records and the summary."""

from __future__ import annotations

import math
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from penstock import __version__
from penstock.meter import sandbox
from penstock.meter.check import grade_records
from penstock.meter.driver import Drive, Limits
from penstock.meter.machine import describe
from penstock.meter.target import Target, TargetInfo
from penstock.predict import hardware
from penstock.predict.limit import limit_for
from penstock.record import metrics
from penstock.record.mlperf import parse_rules
from penstock.record.record import Outcome
from penstock.record.run import Condition, Load, Point, Run
from penstock.record.slo import Slo
from penstock.record.summary import summarise
from penstock.workload.arrivals import Poisson
from penstock.workload.evals import open_tasks
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Plan
from penstock.workload.prompts import CutPrompts, from_file, held_out_stdlib
from penstock.workload.source import Source
from penstock.workload.tasks import TaskSet
from penstock.workload.traces import read_trace

# Bounds that hold unless told otherwise, so that no run is endless or ruinous.
DURATION_S = 30.0
LONGEST_S = 600.0  # where the number of requests was given instead, and for traces
TOKENS = 2_000_000
LATE_MS = 10.0  # a send this long after its time is worth a word
_SAMPLE = 2000  # characters sent to learn how many make a token


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. None means: as is usual for the rest of the options."""

    concurrency: tuple[int, ...] = (1, 16)
    rates: tuple[float, ...] = ()  # requests/s
    trace: Path | None = None
    speed: float = 1.0  # of the trace
    limit: int | None = None  # requests taken from the trace, or tasks asked
    requests: int | None = None  # at each operating point
    duration_s: float | None = None  # of the load at each operating point
    tokens: int = TOKENS  # prompt and output, over the whole run
    input_len: Lengths = Lengths(kind="uniform", a=64, b=256)
    output_len: Lengths = Lengths(kind="uniform", a=32, b=160)
    prompts: Path | None = None
    think_s: float = 0.0
    warmup: int | None = None  # requests
    context: int | None = None  # tokens, prompt and output; None: as the target says
    seed: int = 0
    salt: str | None = None
    slos: tuple[Slo, ...] = ()
    rules: str | None = None  # stricter rules that the verdict holds the run to
    tasks: str | None = None  # whose answers are graded; see `open_tasks`
    samples: tuple[int, ...] = (1,)  # of each task, an operating point each
    few_shot: int | None = None  # examples shown before each task
    temperature: float | None = None  # of tasks; None: greedy if all are asked once, else 0.8
    unsafe_sandbox: bool = False  # run answers as programs though nothing holds them

    @property
    def limit_s(self) -> float:
        """How long the load of one operating point may last."""
        if self.duration_s is not None:
            return self.duration_s
        counted = self.requests is not None or self.trace is not None or self.tasks is not None
        return LONGEST_S if counted else DURATION_S


class Progress:
    """What a display may look at while a run goes on, and how a run is ended early."""

    def __init__(self) -> None:
        self.drive: Drive | None = None  # of the operating point under way
        self.point = self.points = 0
        self.graded = self.to_grade = 0  # answers that take long, when the load is over
        self.interrupted = False

    def interrupt(self) -> None:
        """End now; the records so far are kept."""
        self.interrupted = True
        if self.drive is not None:
            self.drive.interrupt()


async def bench(
    target: Target,
    options: Options,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure `target` at every operating point and summarise.

    `tokenizer` is the target's own, where it is at hand. Raises `ValueError`
    for a file or a length that cannot be used.
    """
    progress = progress or Progress()
    info = target.info
    if options.rules is not None:
        parse_rules(options.rules, info.model or "unknown")
    run = Run(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        target={"kind": info.kind, "name": info.name, "model": info.model, "facts": info.facts},
        points=[],
        slos=list(options.slos),
        rules=options.rules,
    )
    tasks = _tasks(options, target)
    if tasks is None:
        plans = list(_plans(await _source(target, options, tokenizer), options))
    else:
        plans = list(_task_plans(tasks, options))
    progress.points = len(plans)
    # Points of tasks have as many requests as they have samples.
    parts = [len(plan.asks) if tasks else 1 for plan in plans]
    for progress.point, plan in enumerate(plans, 1):
        tokens = options.tokens * parts[progress.point - 1] // sum(parts)
        limits = Limits(duration_s=options.limit_s, tokens=tokens)
        progress.drive = Drive(target, plan, limits)
        if progress.interrupted:
            break
        await progress.drive.run()
        run.points.append(_point(progress.drive, info))
    if tasks is not None:
        run.notes += await _grade(run.points, plans, tasks, options, progress)
    run.interrupted = progress.interrupted
    if run.interrupted:
        run.notes.append(
            f"interrupted: {len(run.points)} of {len(plans)} operating points were begun, "
            "the last is incomplete"
        )
    if options.context is None and info.context is None:
        run.notes.append("the model's context is unknown, so no length was clipped; see --context")
    try:
        _set_limits(run.points, info)
    except (OSError, subprocess.SubprocessError) as error:
        run.notes.append(f"this machine could not be measured, so limits are unknown: {error}")
    run.summary = summarise(run)
    return run


def _tasks(options: Options, target: Target) -> TaskSet | None:
    """The tasks to ask, if any; raises `ValueError` for those that cannot be, or not safely."""
    if options.tasks is None:
        return None
    if options.trace is not None:
        raise ValueError("tasks are asked at a rate or in a closed loop, not by a trace")
    tasks = open_tasks(
        options.tasks, limit=options.limit, few_shot=options.few_shot, seed=options.seed
    )
    tasks.chat = target.info.chat
    if tasks.runs_code and not options.unsafe_sandbox:
        sandbox.require()  # now, not when the answers are there
    return tasks


def _task_plans(tasks: TaskSet, options: Options) -> Iterator[Plan]:
    """The same tasks at every number of samples, so that the points can be compared."""
    temperature = options.temperature
    if temperature is None:
        temperature = 0.8 if max(options.samples) > 1 else 0.0
    for samples in options.samples:
        asked = msgspec.structs.replace(tasks, samples=samples)
        source = Source(
            prompts=asked,
            input_len=options.input_len,
            output_len=options.output_len,
            seed=options.seed,
        )
        for plan in _plans(source, msgspec.structs.replace(options, requests=asked.requests)):
            yield asked.sample(plan, temperature, options.seed)


async def _grade(
    points: Sequence[Point],
    plans: Sequence[Plan],
    tasks: TaskSet,
    options: Options,
    progress: Progress,
) -> list[str]:
    """Grade the answers; returns what to note of it. Records are kept whatever happens."""
    by_id = {task.id: task for task in tasks.tasks}
    for point, plan in zip(points, plans, strict=False):
        asks = {ask.id: ask for ask in plan.asks}
        for record in point.records:
            ask = asks[record.request_id]
            record.task, record.sample = ask.task, ask.sample

    def go_on(graded: int, of: int) -> bool:
        progress.graded, progress.to_grade = graded, of
        return not progress.interrupted

    try:
        await grade_records(
            [record for point in points for record in point.records],
            by_id,
            chat=tasks.chat,
            unsafe=options.unsafe_sandbox,
            go_on=go_on,
        )
    except (OSError, RuntimeError, BrokenProcessPool) as error:
        return [f"grading broke off, so not every answer is graded: {error}"]
    if not tasks.runs_code:
        return []
    return [f"answers were run in a sandbox that {sandbox.protections()}"]


async def _source(target: Target, options: Options, tokenizer: Tokenizer | None) -> Source:
    salt = options.salt or secrets.token_hex(4)
    if options.prompts is None:
        prompts = held_out_stdlib(salt=salt, seed=options.seed, tokenizer=tokenizer)
    else:
        prompts = from_file(options.prompts, salt=salt, seed=options.seed, tokenizer=tokenizer)
    if isinstance(prompts, CutPrompts) and tokenizer is None:
        sample = prompts.sample(_SAMPLE)
        tokens = await target.count_prompt(sample) or 0
        if len(sample) / 12 < tokens < len(sample):  # else that count is not to be believed
            prompts.characters_per_token = len(sample) / tokens
    context = options.context or target.info.context
    if context is not None and tokenizer is not None:
        # What a chat template adds to every prompt must fit as well.
        bare = len(tokenizer.encode("a").ids)
        context -= max(0, (await target.count_prompt("a") or bare) - bare)
    return Source(
        prompts=prompts,
        input_len=options.input_len,
        output_len=options.output_len,
        seed=options.seed,
        context=context,
    )


def _plans(source: Source, options: Options) -> Iterator[Plan]:
    """Plans for all operating points, made before any is run."""
    seconds, warmup = options.limit_s, options.warmup
    if options.trace is not None:
        yield source.replay(read_trace(options.trace, options.limit), options.speed, warmup)
        return
    # More would only run into the token limit.
    affordable = math.ceil(options.tokens / (options.input_len.mean + options.output_len.mean))
    for rate in options.rates:
        yield source.open(
            Poisson(rate),
            count=options.requests,
            seconds=None if options.requests else seconds,
            warmup=warmup,
        )
    for slots in () if options.rates else options.concurrency:
        # Enough that time runs out first: two answers a slot and second, thirty at least.
        plenty = min(math.ceil(seconds * max(30, 2 * slots)), affordable)
        yield source.closed(slots, options.requests or plenty, warmup, options.think_s)


def _point(drive: Drive, info: TargetInfo) -> Point:
    plan, records = drive.plan, drive.records
    assert drive.stop_ns is not None
    unique = str(plan.conditions.get("prompts")).startswith("unique")
    return Point(
        load=plan.load,
        start_ns=drive.start_ns,
        stop_ns=drive.stop_ns,
        end_ns=drive.end_ns,
        warmup=plan.warmup,
        conditions={**info.conditions, **plan.conditions, **_seen(drive, info)},
        notes=[f"{_name(plan.load)}: {note}" for note in [*plan.notes, *_notes(drive)]],
        shares_prefixes=not unique,
        interrupted=drive.interrupted,
        records=records,
    )


def _seen(drive: Drive, info: TargetInfo) -> dict[str, Condition]:
    """Conditions that only the run itself could show."""
    done = metrics.finished(drive.records)
    prompt = [r.prompt_tokens for r in done if r.prompt_tokens is not None]
    output = [r.output_tokens for r in done if r.output_tokens is not None]
    cached = [r.cached_tokens for r in done if r.cached_tokens is not None]
    late_ms = _late_ms(drive)
    share = f"{sum(cached) / max(sum(prompt), 1):.1%} of prompt tokens were found in the cache"
    return {
        "prompt_tokens_mean": round(float(np.mean(prompt)), 1) if prompt else "unknown",
        "output_tokens_mean": round(float(np.mean(output)), 1) if output else "unknown",
        "cache": share if cached else "unknown",
        "send_delay_p99_ms": "unknown" if late_ms is None else round(late_ms, 3),
        "repeats": 1,
        "client": f"penstock {__version__}, one process"
        + (" on the same machine" if info.local else f" on {describe()}"),
    }


def _notes(drive: Drive) -> Iterator[str]:
    sent, asked = len(drive.records), len(drive.plan.asks)
    closed = drive.plan.load.kind == "closed"
    if drive.stopped_by is not None and not (closed and "time limit" in drive.stopped_by):
        yield f"stopped by {drive.stopped_by}: {sent} of {asked} requests were sent"
    if closed and asked < (slots := drive.plan.load.concurrency or 1):
        yield f"{asked} requests cannot fill {slots} slots; give more --requests"
    cut = sum(r.outcome in (Outcome.CANCELLED, Outcome.UNFINISHED) for r in drive.records)
    if cut:
        yield f"{cut} requests were cut at the end and do not count as work"
    if (late_ms := _late_ms(drive) or 0.0) > LATE_MS:
        yield (
            f"one request in a hundred was sent {late_ms:.0f} ms late or more: "
            "this client was busy, or slow to connect"
        )
    short = sum(
        (r.output_tokens or r.output_tokens_asked or 0) < (r.output_tokens_asked or 0)
        for r in metrics.finished(drive.records)
    )
    if short and drive.plan.asks[0].sampling is None:
        yield f"{short} of {drive.done} answers are shorter than asked"
    for caveat, count in drive.caveats.items():
        yield f"{caveat} ({count} of {drive.done} answers)"


def _late_ms(drive: Drive) -> float | None:
    """How long after their time requests were sent, warm-up apart: 99th percentile."""
    measured = drive.records[drive.plan.warmup :]
    late = [r.sent_ns - r.sched_ns for r in measured if r.sent_ns is not None]
    return float(np.quantile(late, 0.99)) * 1e-6 if late else None


def _set_limits(points: Sequence[Point], info: TargetInfo) -> None:
    """Hold every point against what the hardware allows, where model and machine are known."""
    machine = None
    if info.local and info.facts is not None and str(info.facts["device"]).startswith("cpu"):
        # Now, when the load is over: measuring would disturb it, and be disturbed.
        machine = hardware.measure(info.facts["weight_bytes"], (info.facts["dtype"],))
    for point in points:
        done = [r for r in metrics.finished(point.records) if r.prompt_tokens and r.output_tokens]
        if not done:
            continue
        output = sum(r.output_tokens or 0 for r in done)
        prompt = sum(r.prompt_tokens or 0 for r in done)
        cached = sum(r.cached_tokens or 0 for r in done)
        point.limit = limit_for(
            info.facts,
            msgspec.to_builtins(point.load),
            mean_context_tokens=(prompt + output / 2) / len(done),
            input_per_output=(prompt - cached) / output,
            hardware=machine,
        )
        point.conditions["limit_basis"] = point.limit["basis"]


def _name(load: Load) -> str:
    if load.kind == "closed":
        return f"{load.concurrency} at once"
    return "trace" if load.kind == "trace" else f"{load.rate:g} requests/s"
