"""A whole run: from options to operating points, their records and the summary."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec
from tokenizers import Tokenizer

from penstock.meter import capacity, sandbox
from penstock.meter.check import grade_records
from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.meter.options import Options
from penstock.meter.plans import Plans
from penstock.meter.point import point_of, set_limits
from penstock.meter.power import metering
from penstock.meter.scrape import scraping
from penstock.meter.sweep import Seen, sweep
from penstock.meter.target import PlayingTarget, Target
from penstock.record.capacity import Trial, estimate, trial_of
from penstock.record.mlperf import parse_rules
from penstock.record.run import Point, Role, Run
from penstock.record.summary import summarise
from penstock.workload.plan import Plan


class Progress:
    """What a display may look at while a run goes on, and how a run is ended early."""

    def __init__(self) -> None:
        self.drive: Drive | None = None  # of the operating point under way
        self.point = self.points = 0  # 0 points: nobody knows how many there will be
        self.doing = ""  # "sweep", "capacity", the name of a target
        self.graded = self.to_grade = 0  # answers that take long, when the load is over
        self.interrupted = False

    def interrupt(self) -> None:
        """End now; the records so far are kept."""
        self.interrupted = True
        if self.drive is not None:
            self.drive.interrupt()


class Ended(Exception):
    """There is to be no further operating point: interrupted, out of tokens, or out of workers."""


async def bench(
    target: Target,
    options: Options,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure `target` at every operating point, or search for them, and summarise.

    `tokenizer` is the target's own, where it is at hand. Raises `ValueError`
    for a file or a length that cannot be used, `OSError` for what cannot be
    read or started; once there are records, they are kept and the run notes why
    it ended.
    """
    progress = progress or Progress()
    running = await Running.open(target, options, tokenizer, progress)
    async with running.watched():
        with contextlib.suppress(Ended):
            if "sweep" in options.search:
                await running.sweep()
            if "capacity" in options.search:
                await running.capacity()
            if not options.search:
                await running.given()
    return await running.finish()


async def bench_both(
    targets: Sequence[Target],
    options: Options,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Measure targets in alternation: one operating point of each, then the next.

    What changes over time, a machine that grows warm or busy, then meets them
    alike. Every other repeat runs the other way round (ABBA). Lengths and
    arrivals are the same for all of them; prompts are not, in case two of them
    share a cache. Raises as `bench` does.
    """
    progress = progress or Progress()
    each = [await Running.open(target, options, tokenizer, progress) for target in targets]
    async with contextlib.AsyncExitStack() as stack:
        for running in each:
            await stack.enter_async_context(running.watched())
        first: list[Plan] = []
        with contextlib.suppress(Ended):
            for repeat in range(options.repeats):
                rows = list(zip(*(list(running.plans.given()) for running in each), strict=True))
                progress.points = options.repeats * len(rows) * len(each)
                first = first or [plans[0] for plans in rows]
                for plan, plans in zip(first, rows, strict=True):
                    for again in plans:
                        again.load = plan.load  # see `given`
                    turns = list(zip(each, plans, strict=True))
                    for running, own in reversed(turns) if repeat % 2 else turns:
                        progress.doing = running.target.info.name
                        share = options.budget // progress.points
                        await running.measure(own, Role.MEASURED, repeat, share)
    return [await running.finish() for running in each]


class Running:
    """A run under way: measures operating points, one after the other."""

    def __init__(self, target: Target, plans: Plans, run: Run, progress: Progress) -> None:
        self.target = target
        self.plans = plans
        self.options = plans.options
        self.run = run
        self.progress = progress
        self._left = self.options.budget  # tokens
        self._measured: list[Plan] = []  # of the run's points, in their order

    @classmethod
    async def open(
        cls, target: Target, options: Options, tokenizer: Tokenizer | None, progress: Progress
    ) -> Running:
        """Read and check everything before the first request is sent."""
        info = target.info
        if options.rules is not None:
            parse_rules(options.rules, info.model or "unknown")
        if "capacity" in options.search and not options.slos:
            raise ValueError("capacity is the load up to which limits are met; give them: --slo")
        run = Run(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            target={"kind": info.kind, "name": info.name, "model": info.model, "facts": info.facts},
            points=[],
            slos=list(options.slos),
            rules=options.rules,
            price=options.price,
        )
        return cls(target, await Plans.open(target, options, tokenizer), run, progress)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Read the server's metrics page and this machine's energy counters meanwhile."""
        told = self.run.target
        async with contextlib.AsyncExitStack() as stack:
            power = await stack.enter_async_context(metering()) if self.target.info.local else None
            page = None
            if isinstance(self.target, HttpTarget):
                page = await stack.enter_async_context(
                    scraping(self.target.info.name, api_key=self.target.api_key)
                )
            try:
                yield
            finally:
                await stack.aclose()
                if isinstance(self.target, PlayingTarget):
                    self.run.series += self.target.series
                if page is not None:
                    self.run.series += page.series
                    told["metrics_page"] = page.why_not if not page.series else "read every second"
                if power is not None:
                    self.run.series += power.series
                    told["energy"] = "; ".join(power.why_not) if not power.series else "counted"

    async def given(self) -> None:
        """The operating points that the options name, the whole row of them for each repeat."""
        first = list(self.plans.given())
        self.progress.points = len(first) * self.options.repeats
        # Points of tasks have as many requests as they have samples.
        sizes = [len(plan.asks) if self.plans.tasks else 1 for plan in first]
        whole = sum(sizes) * self.options.repeats
        for repeat in range(self.options.repeats):
            plans = list(self.plans.given()) if repeat else first
            for plan, again, size in zip(first, plans, sizes, strict=True):
                again.load = plan.load  # a rate is a float: repeats must share it to the bit
                await self.measure(
                    again, Role.MEASURED, repeat, self.options.budget * size // whole
                )

    async def sweep(self) -> None:
        """Climb the load past saturation; see `meter.sweep`."""
        self.progress.doing = "sweep"
        climbed: list[tuple[float, Point]] = []

        async def measure(load: float) -> Seen | None:
            try:
                point = await self.measure(self.plans.at(load), Role.MEASURED)
            except Ended:
                return None
            climbed.append((load, point))
            return _seen(load, point)

        swept = await sweep(measure, self._start(), whole=not self.options.arrivals)
        self.run.swept = swept
        for load, point in climbed:
            if swept.best is not None and load > swept.best:
                point.role = Role.OVERLOAD
        self.run.points.sort(key=lambda point: point.load.concurrency or point.load.rate or 0.0)

    async def capacity(self) -> None:
        """Search for the load up to which the limits are met, then measure there."""
        self.progress.doing = "capacity"
        slos = self.options.slos

        async def measure(load: float, designed: bool) -> Trial:
            role = Role.TRIAL if designed else Role.BRACKET
            trial = trial_of(await self.measure(self.plans.at(load), role), slos)
            return msgspec.structs.replace(trial, load=load)

        swept = self.run.swept
        start = swept.best if swept is not None and swept.best else self._start()
        closed = not self.options.arrivals
        try:
            trials = await capacity.find(measure, start, whole=closed, seed=self.options.seed)
        except capacity.Unsettled as error:
            self.run.unsettled = str(error)
            return
        except Ended:
            self.run.unsettled = "the search was ended early"
            raise
        if found := estimate(trials).load:
            load = max(1.0, float(int(found))) if closed else found
            await self.measure(self.plans.at(load), Role.MEASURED)

    def _start(self) -> float:
        arrivals = self.options.arrivals
        return (
            arrivals[0].mean_rate(self.options.limit_s)
            if arrivals
            else float(self.options.slots[0])
        )

    async def measure(
        self, plan: Plan, role: Role, repeat: int = 0, tokens: int | None = None
    ) -> Point:
        """One operating point, kept in the run.

        `tokens` bounds it, the rest of the run's if None. Raises `Ended` instead
        of beginning one that is not to be.
        """
        if self.progress.interrupted or self._left <= 0:
            raise Ended
        if self.options.workload.slos or self.options.workload.why:
            plan.conditions["preset"] = self.options.workload.name
        limits = Limits(
            duration_s=self.options.limit_s, tokens=min(tokens or self._left, self._left)
        )
        self.progress.point += 1
        self.progress.drive = drive = Drive(self.target, plan, limits, self.options.workers)
        try:
            await drive.run()
        except OSError as error:
            if not self.run.points:
                raise
            self.run.notes.append(f"ended early: {error}")
            raise Ended from error
        self._left -= drive.tokens
        point = point_of(drive, self.target.info, role, repeat)
        self.run.points.append(point)
        self._measured.append(plan)
        return point

    async def finish(self) -> Run:
        """Grade, hold against the hardware's limits, summarise."""
        run, progress, info = self.run, self.progress, self.target.info
        if self.plans.tasks is not None:
            run.notes += await self._grade()
        run.interrupted = progress.interrupted
        if run.interrupted:
            begun = f"{len(run.points)} operating points"
            if progress.points:
                begun = f"{progress.point} of {progress.points} operating points"
            run.notes.append(f"interrupted: {begun} were begun, the last is incomplete")
        if self.options.context is None and info.context is None:
            run.notes.append(
                "the model's context is unknown, so no length was clipped; see --context"
            )
        try:
            set_limits(run.points, info)
        except (OSError, subprocess.SubprocessError) as error:
            run.notes.append(f"this machine could not be measured, so limits are unknown: {error}")
        run.summary = summarise(run)
        return run

    async def _grade(self) -> list[str]:
        """Grade the answers; returns what to note of it. Records are kept whatever happens."""
        tasks, progress, points = self.plans.tasks, self.progress, self.run.points
        assert tasks is not None
        by_id = {task.id: task for task in tasks.tasks}
        for point, plan in zip(points, self._measured, strict=True):
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
                unsafe=self.options.unsafe_sandbox,
                go_on=go_on,
            )
        except (OSError, RuntimeError) as error:
            return [f"grading broke off, so not every answer is graded: {error}"]
        if not tasks.runs_code:
            return []
        return [f"answers were run in a sandbox that {sandbox.protections()}"]


def _seen(load: float, point: Point) -> Seen:
    """What a sweep asks of a point."""
    figures = summarise(Run(started="", target={}, points=[point]))["points"][0]
    rate = figures["output_throughput"]
    if rate["value"] is None:
        rate = figures["request_throughput"]
    return Seen(
        load=load,
        throughput=rate["value"],
        ci95=rate["ci95"],
        answered=figures["request_throughput"]["value"],
        wait_s=figures["ttft_from_schedule"]["p50"],
        failed=figures["errors"]["count"] / max(1, len(point.records)),
    )
