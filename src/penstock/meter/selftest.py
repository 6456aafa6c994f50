"""The meter's own error: what it reports, held against a server whose truth is known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.meter.truth import MARK, Timing, TrueAnswer, Truth, true_server
from penstock.record.record import Record
from penstock.record.run import Load
from penstock.workload.plan import Ask, Plan

LATE_MS = 1.0  # a server that is late by as much, at the 99th percentile, is no truth
_RESERVE = 5.0  # times as long as it should take, before a row is given up

Start = Literal["burst", "staggered"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How each level is measured: `rounds` answers a stream, all begun at once or spread evenly."""

    timing: Timing = Timing()
    rounds: int = 3
    start: Start = "burst"
    workers: int | None = None

    @property
    def answer_s(self) -> float:
        """How long one answer should take."""
        return self.timing.ttft_s + (self.timing.events - 1) * self.timing.itl_s


class Spread(msgspec.Struct, frozen=True):
    """Of absolute values."""

    mean: float
    p50: float
    p99: float


class Row(msgspec.Struct, kw_only=True):
    """One level. Errors are absolute, by request (TTFT) and by gap (ITL); None: nothing came.

    `chunks_per_s` were received, from the first request sent to the last chunk;
    `ideal_share` is that held against streams that lose no time between answers.
    CPU time is the meter's, workers and reading of answers together.
    """

    streams: int
    start: Start
    ttft_error_ms: Spread | None
    itl_error_ms: Spread | None
    server_late_ms_p99: float
    chunks_per_s: float
    ideal_share: float
    cpu_s_per_1000_chunks: float
    workers: int
    realtime: bool  # whether the workers run before other processes
    valid: bool
    reason: str | None = None

    @property
    def chunks_per_core_s(self) -> float:
        """How many chunks a second of one core's time is enough for."""
        return 1000 / self.cpu_s_per_1000_chunks


async def measure(streams: int, setting: Setting) -> Row:
    """Measure one level. Raises `TruthError` if there is no ground truth here."""
    with true_server(setting.timing) as truth:
        target = await HttpTarget.open(truth.url)
        limits = Limits(duration_s=_RESERVE * setting.rounds * setting.answer_s + 10, drain_s=10)
        drive = Drive(target, _plan(streams, setting), limits, setting.workers)
        before = os.times()
        await drive.run()
        after = os.times()  # before the server ends, so that its time is not among the children's
        await target.close()
    cpu_s = sum(after[:4]) - sum(before[:4])
    return _row(streams, setting, drive, truth, cpu_s)


def _plan(streams: int, setting: Setting) -> Plan:
    spacing_s = setting.answer_s / streams
    staggered = setting.start == "staggered"
    return Plan(
        load=Load(kind="open", rate=1 / spacing_s)
        if staggered
        else Load(kind="closed", concurrency=streams),
        warmup=0,
        asks=[
            Ask(
                id=str(i),
                content=f"{MARK}{i}: say something.",
                prompt_tokens=None,
                output_tokens=setting.timing.events * setting.timing.tokens_per_event,
                at_s=i * spacing_s if staggered else None,
            )
            for i in range(streams * setting.rounds)
        ],
    )


def _row(streams: int, setting: Setting, drive: Drive, truth: Truth, cpu_s: float) -> Row:
    answers = {answer.id: answer for answer in truth.answers}
    pairs = [
        (record, answers[int(record.request_id)])
        for record in drive.records
        if record.first_ns is not None and int(record.request_id) in answers
    ]
    whole = [(r, a) for r, a in pairs if len(r.event_ns) == len(a.event_ns)]
    chunks = sum(len(record.event_ns) for record, _ in pairs)
    begun = min((r.sent_ns for r, _ in pairs if r.sent_ns is not None), default=0)
    seconds = max((r.last_ns or 0 for r, _ in pairs), default=0) * 1e-9 - begun * 1e-9
    ideal_s = setting.answer_s * setting.rounds
    if setting.start == "staggered":
        ideal_s += setting.answer_s * (1 - 1 / streams)
    late_ms = truth.late_ms_p99
    reason = _why_not(late_ms, len(whole), drive)
    return Row(
        streams=streams,
        start=setting.start,
        ttft_error_ms=_spread([_ttft_ns(r) - a.ttft_ns for r, a in whole]),
        itl_error_ms=_spread(_gap_errors(whole)),
        server_late_ms_p99=round(late_ms, 4),
        chunks_per_s=round(chunks / seconds, 1) if chunks else 0.0,
        ideal_share=round(ideal_s / seconds, 4) if chunks else 0.0,
        cpu_s_per_1000_chunks=round(1000 * cpu_s / max(chunks, 1), 5),
        workers=drive.workers,
        realtime=drive.realtime,
        valid=reason is None,
        reason=reason,
    )


def _why_not(late_ms: float, whole: int, drive: Drive) -> str | None:
    if late_ms >= LATE_MS:
        return (
            f"the server itself was late by {late_ms:.1f} ms (p99), so it is no truth: "
            "this machine is busy"
        )
    if missing := len(drive.plan.asks) - whole:
        errors = [r.error for r in drive.records if r.error is not None]
        said = errors[0] if errors else drive.stopped_by
        return f"{missing} of {len(drive.plan.asks)} answers are missing or incomplete: {said}"
    return None


def _ttft_ns(record: Record) -> int:
    assert record.first_ns is not None
    assert record.sent_ns is not None
    return record.first_ns - record.sent_ns


def _gap_errors(pairs: Sequence[tuple[Record, TrueAnswer]]) -> list[int]:
    return [
        int(error)
        for record, answer in pairs
        for error in np.diff(record.event_ns) - np.diff(answer.event_ns)
    ]


def _spread(errors_ns: Sequence[int]) -> Spread | None:
    if not errors_ns:
        return None
    size = np.abs(errors_ns) * 1e-6
    p50, p99 = np.quantile(size, [0.5, 0.99])
    return Spread(round(float(size.mean()), 4), round(float(p50), 4), round(float(p99), 4))
