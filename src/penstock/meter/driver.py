"""Sends a plan: a closed loop of slots, or an open loop on an absolute schedule."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Iterator
from time import monotonic_ns

import msgspec

from penstock.meter.target import Target
from penstock.record.record import Outcome, Record
from penstock.workload.plan import Ask, Plan

FAILURES_IN_A_ROW = 50  # then the target is taken to be down


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds one operating point, beside the number of its asks.

    Requests under way when the load stops may end until `duration_s + drain_s`
    after the start; then they are cancelled.
    """

    duration_s: float
    drain_s: float = 120.0
    tokens: int | None = None  # prompt and output tokens together


class Drive:
    """One operating point: the load while it runs, then what came of it.

    `stop_ns` is when the load stopped: a closed loop could no longer fill a
    slot, an open loop had sent its last request, or a limit was reached;
    `stopped_by` names that limit.
    """

    def __init__(self, target: Target, plan: Plan, limits: Limits) -> None:
        self.target = target
        self.plan = plan
        self.limits = limits
        self.records: list[Record] = []
        self.caveats: Counter[str] = Counter()
        self.start_ns = self.end_ns = 0
        self.stop_ns: int | None = None
        self.stopped_by: str | None = None
        self.interrupted = False
        self.done = self.failed = self.tokens = self.output_tokens = 0
        self._failed_in_a_row = 0
        self._load: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Requests wanted and not yet over."""
        return len(self.records) - self.done - self.failed

    async def run(self) -> None:
        """Send the plan and wait for the answers, within the limits."""
        limits = self.limits
        with _collector_off():
            self.start_ns = monotonic_ns()
            timer = asyncio.get_running_loop().call_later(
                limits.duration_s, self.stop, f"the time limit of {limits.duration_s:g} s"
            )
            closed = self.plan.load.kind == "closed"
            self._load = asyncio.create_task(self._closed() if closed else self._open())
            try:
                await asyncio.wait({self._load}, timeout=limits.duration_s + limits.drain_s)
            finally:
                timer.cancel()
                self._load.cancel()
                await asyncio.wait({self._load})
        self.stop()
        self.end_ns = monotonic_ns()
        if not self._load.cancelled():
            self._load.result()

    def stop(self, reason: str | None = None) -> None:
        """Send no more; what is under way may end. Only the first call counts."""
        if self.stop_ns is None:
            self.stop_ns = monotonic_ns()
            self.stopped_by = reason

    def interrupt(self) -> None:
        """Stop at once: what is under way stays unfinished."""
        self.interrupted = True
        self.stop("an interruption")
        if self._load is not None:
            self._load.cancel()

    async def _closed(self) -> None:
        asks = iter(self.plan.asks)
        async with asyncio.TaskGroup() as slots:
            for _ in range(self.plan.load.concurrency or 1):
                slots.create_task(self._slot(asks))

    async def _slot(self, asks: Iterator[Ask]) -> None:
        wanted_ns = self.start_ns
        for ask in asks:
            if self.stop_ns is not None:
                return
            record = await self._send(ask, wanted_ns)
            wanted_ns = (record.end_ns or monotonic_ns()) + int(self.plan.think_s * 1e9)
            await self._until(wanted_ns)
        self.stop()

    async def _open(self) -> None:
        # The schedule is absolute: a late send does not move those after it.
        async with asyncio.TaskGroup() as sends:
            for ask in self.plan.asks:
                wanted_ns = self.start_ns + int((ask.at_s or 0.0) * 1e9)
                await self._until(wanted_ns)
                if self.stop_ns is not None:
                    return
                sends.create_task(self._send(ask, wanted_ns))
            self.stop()

    async def _until(self, when_ns: int) -> None:
        """Sleep until then, or until the load stops."""
        while (left_ns := when_ns - monotonic_ns()) > 0 and self.stop_ns is None:
            await asyncio.sleep(min(left_ns * 1e-9, 0.1))

    async def _send(self, ask: Ask, wanted_ns: int) -> Record:
        record = Record(
            request_id=ask.id,
            sched_ns=wanted_ns,
            prompt_tokens_asked=ask.prompt_tokens,
            output_tokens_asked=ask.output_tokens,
        )
        self.records.append(record)
        try:
            self.caveats.update(await self.target.send(ask, record))
        except asyncio.CancelledError:
            record.end_ns = monotonic_ns()
            if self.interrupted:
                record.outcome, record.error = Outcome.UNFINISHED, "interrupted"
            else:
                record.outcome = Outcome.CANCELLED
                record.error = f"cut: still under way {self.limits.drain_s:g} s after the limit"
            raise
        self._tally(record)
        return record

    def _tally(self, record: Record) -> None:
        if record.outcome is Outcome.FINISHED:
            self.done += 1
            self._failed_in_a_row = 0
        else:
            self.failed += 1
            self._failed_in_a_row += 1
        output = record.output_tokens or len(record.event_ns)
        self.output_tokens += output
        self.tokens += output + (record.prompt_tokens or record.prompt_tokens_asked or 0)
        if self.limits.tokens is not None and self.tokens >= self.limits.tokens:
            self.stop(f"the limit of {self.limits.tokens:,} tokens")
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            self.stop(f"{FAILURES_IN_A_ROW} failures in a row (the last: {record.error})")


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector, which stops everything for milliseconds, out of the load."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
