"""From a drive to an operating point: its conditions, what is to be said of it, its limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from penstock import __version__
from penstock.meter.driver import Drive
from penstock.meter.machine import describe
from penstock.meter.target import TargetInfo
from penstock.predict import hardware
from penstock.predict.limit import limit_for
from penstock.record import metrics
from penstock.record.record import Outcome
from penstock.record.run import Condition, Load, Point, Role

LATE_MS = 10.0  # a send this long after its time is worth a word


def point_of(drive: Drive, info: TargetInfo, role: Role, repeat: int = 0) -> Point:
    """The operating point that a drive measured."""
    plan = drive.plan
    assert drive.stop_ns is not None
    return Point(
        load=plan.load,
        start_ns=drive.start_ns,
        stop_ns=drive.stop_ns,
        end_ns=drive.end_ns,
        warmup=plan.warmup,
        conditions={**info.conditions, **plan.conditions, **_seen(drive, info)},
        notes=[f"{_name(plan.load)}: {note}" for note in [*plan.notes, *_notes(drive)]],
        repeat=repeat,
        role=role,
        shares_prefixes=plan.shares_prefixes,
        interrupted=drive.interrupted,
        missing=drive.missing,
        records=drive.records,
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
        "read_delay_p99_ms": (
            round(float(np.quantile(drive.lags_ns, 0.99)) * 1e-6, 3) if drive.lags_ns else "unknown"
        ),
        "repeats": 1,
        "client": f"penstock {__version__}, {_processes(drive, info)}",
    }


def _processes(drive: Drive, info: TargetInfo) -> str:
    if info.reads_sketches:
        return "in virtual time"
    where = "on the same machine" if info.local else f"on {describe()}"
    if not drive.workers:
        return f"in the engine's process {where}"
    many = "one sending process" if drive.workers == 1 else f"{drive.workers} sending processes"
    many += ", real-time" if drive.realtime else ""
    many += "" if drive.together else ", sockets read one by one"
    return f"{many} {where}"


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


def set_limits(points: Sequence[Point], info: TargetInfo) -> None:
    """Hold every point against what the hardware allows, where model and machine are known.

    Raises `OSError` or `subprocess.SubprocessError` if this machine cannot be measured.
    """
    machine = None
    if info.local and info.facts is not None and str(info.facts["device"]).startswith("cpu"):
        # Now, when the load is over: measuring would disturb it, and be disturbed.
        machine = hardware.measure(info.facts["weight_bytes"], (info.facts["compute"],))
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
