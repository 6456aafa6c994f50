"""The summary of a run: what `bench --json` prints and every report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.record import metrics, mlperf
from penstock.record.capacity import capacity_of
from penstock.record.guesses import guesses
from penstock.record.power import energy_condition, power
from penstock.record.price import cost
from penstock.record.quality import quality
from penstock.record.record import Outcome, Record
from penstock.record.repeats import grouped, merged
from penstock.record.run import Point, Role, Run
from penstock.record.sentences import load_name, sentences
from penstock.record.sessions import sessions
from penstock.record.slo import Slo
from penstock.record.stats import interval, of_batches, spread
from penstock.record.steady import SLICES, Window, steady_window, whole_run
from penstock.record.verdict import INTERRUPTED, judge

UNKNOWN_LIMIT: dict[str, Any] = {
    "output_throughput": None,
    "user_speed": None,
    "binds": "unknown",
    "basis": "unknown: neither the model's shape nor the hardware's speed is known",
}


def summarise(run: Run) -> dict[str, Any]:
    """Compute the summary of a run from its records; see docs/metrics.md for its shape."""
    # Trials are shown with the capacity that they found, and as points only if they found none.
    shown = [i for i, p in enumerate(run.points) if p.role in (Role.MEASURED, Role.OVERLOAD)]
    shown = shown or list(range(len(run.points)))
    singles = {i: _point(run.points[i], run) for i in shown}
    points = []
    for places in grouped([run.points[i] for i in shown]):
        indices = [shown[place] for place in places]
        group = [singles[i] for i in indices]
        point = merged(group) if len(group) > 1 else group[0]
        point["cost"] = None if run.price is None else cost(run.price, point)
        reasons = [
            {**reason, "at": load_name(point["load"])}
            for single in group
            for reason in single["verdict"]["reasons"]
        ]
        points.append(
            {**point, "of": indices, "verdict": {"valid": not reasons, "reasons": reasons}}
        )
    claimed = [point for point in points if point["role"] != Role.OVERLOAD]
    every = [reason for point in claimed for reason in point["verdict"]["reasons"]]
    if run.interrupted and not any(reason["code"] == "interrupted" for reason in every):
        every.append(msgspec.to_builtins(INTERRUPTED))
    return {
        "points": points,
        "verdict": {"valid": not every and bool(points), "reasons": every, "rules": run.rules},
        "swept": msgspec.to_builtins(run.swept),
        "capacity": capacity_of(run),
        "sentences": sentences(points),
        "target": run.target,
        "html": run.summary.get("html"),
        "run_dir": run.summary.get("run_dir"),
        "started": run.started,
        "interrupted": run.interrupted,
        "notes": [*run.notes, *_unique(note for point in run.points for note in point.notes)],
    }


def _point(point: Point, run: Run) -> dict[str, Any]:
    slos, window = run.slos, steady_window(point)
    reasons = judge(point, window)
    if run.rules is not None:
        reasons += mlperf.judge(point, mlperf.parse_rules(run.rules, _model(run, point)))
    wanted = metrics.scheduled_in(point.records, window.start_ns, window.end_ns)
    done = metrics.finished(wanted)
    outcomes = Counter(r.outcome for r in point.records)
    errors = metrics.errors_by_class(point.records)
    throughput = _rate(metrics.output_arrivals(point.records), window, point, "tokens/s")
    speeds = [1 / t for r in done if (t := metrics.tpot(r)) is not None]
    words = metrics.words_per_token(done)
    return {
        "load": {
            "kind": point.load.kind,
            "concurrency": point.load.concurrency,
            "rate": point.load.rate,
        },
        "role": point.role,
        "conditions": {**point.conditions, "energy": energy_condition(run)},
        "window": {
            "start_s": (window.start_ns - point.start_ns) / metrics.NS_PER_S,
            "end_s": (window.end_ns - point.start_ns) / metrics.NS_PER_S,
            "seconds": window.seconds,
            "steady": window.steady,
            "whole_run": window.whole_run,
            "trimmed_s": window.trimmed_s,
            "reason": window.reason,
        },
        "output_throughput": throughput,
        "input_throughput": _rate(metrics.input_arrivals(point.records), window, point, "tokens/s"),
        "request_throughput": _rate(
            metrics.request_arrivals(point.records), window, point, "requests/s"
        ),
        "ttft": _spread(metrics.ttft, done),
        "ttft_from_schedule": _spread(metrics.ttft_from_schedule, done),
        "tpot": _spread(metrics.tpot, done),
        "itl": {
            **spread(metrics.itl(done)),
            "tokens_per_event": metrics.tokens_per_event(done),
        },
        "e2e": _spread(metrics.e2e, done),
        "e2e_from_sent": _spread(metrics.e2e_from_sent, done),
        "user_speed": _per_user(speeds),
        "words_per_second": _per_user([s * words for s in speeds] if words is not None else []),
        "goodput": _goodput(wanted, slos, window),
        "quality": quality(point, window),
        "sessions": sessions(point, window),
        "guesses": guesses(run.series, window),
        "power": power(run.series, window, throughput["value"]),
        "errors": {"count": sum(errors.values()), "by_class": errors},
        "requests": len(metrics.finished_requests(point.records)),
        "completed": outcomes[Outcome.FINISHED],
        "cancelled": outcomes[Outcome.CANCELLED],
        "unfinished": outcomes[Outcome.UNFINISHED],
        "wasted_tokens": metrics.wasted_tokens(point.records),
        "tokens": _tokens(point.records),
        "limit": _limit(point, throughput["value"]),
        "verdict": {"valid": not reasons, "reasons": msgspec.to_builtins(reasons)},
        "repeats": [],
    }


def _model(run: Run, point: Point) -> str:
    return str(point.conditions.get("model") or run.target.get("model"))


def _spread(metric: Callable[[Record], float | None], records: Sequence[Record]) -> dict[str, Any]:
    return {**spread([value for r in records if (value := metric(r)) is not None])}


def _rate(arrivals: metrics.Arrivals, window: Window, point: Point, unit: str) -> dict[str, Any]:
    """A rate inside the window with its batch-means interval, and over the whole run.

    None where nothing at all could be counted although requests finished.
    """
    if not len(arrivals[0]) and metrics.finished(point.records):
        return {"value": None, "unit": unit, "ci95": None, "whole_run": None}
    all_of_it = whole_run(point)
    slices = metrics.rates(arrivals, window.start_ns, window.end_ns, SLICES)
    estimate = None if window.whole_run else of_batches(slices.tolist())
    return {
        "value": float(slices.mean()),
        "unit": unit,
        "ci95": interval(estimate),
        "whole_run": float(metrics.rates(arrivals, all_of_it.start_ns, all_of_it.end_ns)[0]),
    }


def _per_user(speeds: Sequence[float]) -> dict[str, float | None]:
    """What users see; p10 is the slow end: nine users in ten are faster."""
    if not speeds:
        return {"mean": None, "p50": None, "p10": None}
    p50, p10 = (float(q) for q in np.quantile(speeds, [0.5, 0.1]))
    return {"mean": float(np.mean(speeds)), "p50": p50, "p10": p10}


def _goodput(wanted: Sequence[Record], slos: Sequence[Slo], window: Window) -> dict[str, Any]:
    good = [
        request
        for request in metrics.finished_requests(wanted)
        if all(slo.met_by(r) for slo in slos for r in request)
    ]
    tokens = [r.output_tokens for request in good for r in request]
    known = [count for count in tokens if count is not None]
    asked = len(metrics.requests(wanted))
    return {
        "slo": {str(slo): slo.limit_s for slo in slos} or None,
        "requests_per_s": len(good) / window.seconds,
        "output_tokens_per_s": (sum(known) / window.seconds if len(known) == len(tokens) else None),
        "share": len(good) / asked if asked else None,
    }


def _tokens(records: Sequence[Record]) -> dict[str, Any]:
    done = metrics.finished(records)

    def total(counts: Iterable[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    sources = _unique(r.counted_by or "unknown" for r in done)
    return {
        "output": total(r.output_tokens for r in done),
        "prompt": total(r.prompt_tokens for r in done),
        "cached": total(r.cached_tokens for r in done),
        "source": " and ".join(sources) or "unknown",
    }


def _limit(point: Point, throughput: float | None) -> dict[str, Any]:
    limit = {**UNKNOWN_LIMIT, **(point.limit or {})}
    ceiling = limit["output_throughput"]
    known = ceiling and throughput is not None
    limit["fraction"] = throughput / ceiling if known and throughput is not None else None
    return limit


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
