"""One operating point: the load, its limits, and the books of what came of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import Protocol

import msgspec

from penstock.meter.crew import Crew
from penstock.meter.inside import Inside
from penstock.meter.target import PlayingTarget, RemoteTarget, Reply, Target
from penstock.record.record import Outcome, Record
from penstock.workload.plan import Ask, Plan

FAILURES_IN_A_ROW = 50  # then the target is taken to be down
STREAMS_A_WORKER = 1000  # at once, or new in a second


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds one operating point, beside the number of its asks.

    Requests under way when the load stops may end until `duration_s + drain_s`
    after the start; then they are cut.
    """

    duration_s: float
    drain_s: float = 120.0
    tokens: int | None = None  # prompt and output tokens together


class Sender(Protocol):
    """Sends a drive's plan, and tells the drive's books of all that happens."""

    lead_ns: int  # from the order to start until the load can start

    async def open(self) -> None:
        """Get ready; the clock does not run yet."""
        ...

    async def run(self) -> None:
        """Send the plan, until everything sent is over. When cancelled, cut what is under way."""
        ...

    def stop(self) -> None:
        """Send no more."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


def workers_for(plan: Plan) -> int:
    """How many processes the load calls for; one core is left to the server and to reading."""
    load = plan.load
    streams = load.concurrency or load.rate or 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(-int(-streams // STREAMS_A_WORKER), (cores or 1) - 1))


class Drive:
    """One operating point: the load while it runs, then what came of it.

    A server is asked by `workers` processes, by default as many as the load calls
    for; an engine in this process by this process; a simulated fleet plays the plan
    itself, in its own time. `stop_ns` is when the load
    stopped: a closed loop could no longer fill a slot, an open loop had sent its
    last request, or a limit was reached; `stopped_by` names that limit. `missing`
    says what was lost with a worker.
    """

    def __init__(
        self, target: Target, plan: Plan, limits: Limits, workers: int | None = None
    ) -> None:
        self.target = target
        self.plan = plan
        self.limits = limits
        self.workers = 0  # beside this process
        self.realtime = False  # whether the kernel lets them run before other processes
        self.together = False  # whether they read all sockets at once, in C
        self.records: list[Record] = []
        self.caveats: Counter[str] = Counter()
        self.missing: list[str] = []
        self.lags_ns: list[int] = []  # by request: the longest that arrived bytes lay unread
        self.start_ns = self.end_ns = 0
        self.stop_ns: int | None = None
        self.stopped_by: str | None = None
        self.thinned_ns: int | None = None  # when a first slot of several workers' stayed empty
        self.interrupted = False
        self.begun = self.done = self.failed = self.tokens = self.output_tokens = 0
        self._failed_in_a_row = 0
        self._load: asyncio.Task[None] | None = None
        self._sender: Sender = Inside(self)
        self.now_ns: Callable[[], int] = monotonic_ns
        self._limited = True  # by this process's clock
        if isinstance(target, PlayingTarget):
            self._sender, self.now_ns, self._limited = target.sender(self), target.now_ns, False
        elif isinstance(target, RemoteTarget):
            self.workers = min(
                workers or workers_for(plan), plan.load.concurrency or len(plan.asks)
            )
            self._sender = Crew(self, target, self.workers)

    @property
    def in_flight(self) -> int:
        """Requests wanted and not yet over."""
        return self.begun - self.done - self.failed

    async def run(self) -> None:
        """Send the plan and wait for the answers, within the limits.

        Raises `OSError` if a worker process cannot be started.
        """
        timer = None
        try:
            await self._see_through(self._sender.open())
            self.start_ns = self.stop_ns or self.now_ns() + self._sender.lead_ns
            if not self.interrupted and self._limited:
                left_s = self.limits.duration_s + self._sender.lead_ns * 1e-9
                timer = asyncio.get_running_loop().call_later(left_s, self.time_is_up)
                await self._see_through(self._sender.run(), left_s + self.limits.drain_s)
            elif not self.interrupted:
                await self._see_through(self._sender.run())
        finally:
            if timer is not None:
                timer.cancel()
            await self._sender.close()
        self.stop()
        self.end_ns = self.now_ns()
        self.records.sort(key=lambda record: record.sched_ns)

    async def _see_through(
        self, work: Coroutine[None, None, None], most_s: float | None = None
    ) -> None:
        """Do it to its end, an interruption, or the end of its time."""
        self._load = asyncio.create_task(work)
        try:
            await asyncio.wait({self._load}, timeout=most_s)
        finally:
            self._load.cancel()
            await asyncio.wait({self._load})
        if not self._load.cancelled():
            self._load.result()

    def stop(self, reason: str | None = None, at_ns: int | None = None) -> None:
        """Send no more; what is under way may end. Only the first call counts."""
        if self.stop_ns is None:
            stop_ns = self.now_ns() if at_ns is None else at_ns
            self.stop_ns = min(stop_ns, self.thinned_ns or stop_ns)
            self.stopped_by = reason
            self._sender.stop()

    def interrupt(self) -> None:
        """Stop at once: what is under way stays unfinished."""
        self.interrupted = True
        self.stop("an interruption")
        if self._load is not None:
            self._load.cancel()

    def time_is_up(self) -> None:
        """The load has lasted as long as it may."""
        seconds = self.limits.duration_s
        self.stop(f"the time limit of {seconds:g} s", self.start_ns + int(seconds * 1e9))

    # The books, kept by the sender.

    def begin(self, ask: Ask, sched_ns: int) -> Record:
        """A request is under way."""
        record = Record(
            request_id=ask.id,
            sched_ns=sched_ns,
            prompt_tokens_asked=ask.prompt_tokens,
            output_tokens_asked=ask.output_tokens,
            session=ask.session,
            turn=ask.turn,
        )
        self.records.append(record)
        self.begun += 1
        return record

    def end(self, record: Record, reply: Reply) -> None:
        """A request is over."""
        self.caveats.update(reply.caveats)
        self.records += reply.further
        if record.outcome is Outcome.FINISHED:
            self.done += 1
            self._failed_in_a_row = 0
        else:
            self.failed += 1
            self._failed_in_a_row += 1
        for each in (record, *reply.further):
            output = each.output_tokens or len(each.event_ns)
            self.output_tokens += output
            self.tokens += output + (each.prompt_tokens or each.prompt_tokens_asked or 0)
        if self.limits.tokens is not None and self.tokens >= self.limits.tokens:
            self.stop(f"the limit of {self.limits.tokens:,} tokens")
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            self.stop(f"{FAILURES_IN_A_ROW} failures in a row (the last: {record.error})")

    def cut(self, record: Record) -> None:
        """A request was under way when the run was cut."""
        record.end_ns = record.end_ns or self.now_ns()
        if self.interrupted:
            record.outcome, record.error = Outcome.UNFINISHED, "interrupted"
        else:
            record.outcome = Outcome.CANCELLED
            record.error = f"cut: still under way {self.limits.drain_s:g} s after the limit"
