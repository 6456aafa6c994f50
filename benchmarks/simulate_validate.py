"""A simulated server held against a real one's log, request by request.

python -m benchmarks.simulate_validate --log DIR [--json] [--on DEVICE] [--out FILE]

`zero` simulates from model, hardware sheet and defaults alone, and is judged on all requests.
`calibrated` fits the step time to what had been seen in the first 40 % of the run, and is judged
on the requests that arrive after; where none do (a run that drains its queue), on those that the
server takes up after. Arrivals, lengths and the server's settings are given to both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.predict.calibrate import calibrate
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.serverlog import ServerLog, read_log
from penstock.predict.steptime import StepTime
from penstock.simulate.fleet import Fleet, Group
from penstock.simulate.run import plan_of, simulate
from penstock.workload.traces import Trace

CUT = 0.4  # of the run's time is seen
LEAST = 10  # requests that must be left to predict
WINDOWS = 10  # equal parts of the requests, in the order of arrival, whose means have intervals
CONFIDENCE = 0.9
AT_ONCE_S = 0.1  # whoever the server takes up so soon did not queue

Floats = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]


class Outcome(NamedTuple):
    """Seconds of every request, in the order of arrival."""

    ttft: Floats
    tpot: Floats
    e2e: Floats


def logged(log: ServerLog) -> Outcome:
    """What was measured."""
    later = np.maximum(log.output - 1, 1)
    return Outcome(log.first - log.arrived, (log.last - log.first) / later, log.last - log.arrived)


def simulated(log: ServerLog, step: StepTime) -> Outcome:
    """The same requests on a simulated server with the same settings."""
    named = log.named
    group = Group(
        kv_tokens=int(named.dp * log.kv_tokens) if log.kv_tokens else _pool(log),
        policy={
            "preset": "vllm",
            "max_running": named.dp * log.max_running,
            "max_step_tokens": named.dp * log.max_step_tokens,
        },
    )
    trace = Trace(
        format="a server's log",
        at_s=log.arrived,
        prompt_tokens=log.prompt.astype(np.int64),
        output_tokens=log.output.astype(np.int64),
    )
    # No two prompts are alike, but a preempted sequence finds what is left of its own pages.
    plan = msgspec.structs.replace(plan_of(trace), shares_prefixes=True)
    records = simulate(Fleet(replicas=(group,)), plan, steps=(step,)).records()
    first, last = (
        np.array([getattr(record, name) / 1e9 for record in records])
        for name in ("first_ns", "last_ns")
    )
    later = np.maximum(log.output - 1, 1)
    return Outcome(first - log.arrived, (last - first) / later, last - log.arrived)


def _pool(log: ServerLog) -> int:
    """The KV pool's tokens, where the log does not tell, from the device's memory."""
    return int(log.named.deployment().kv_tokens(float(np.mean(log.prompt + log.output / 2))))


def errors(found: Outcome, true: Outcome, chosen: Chosen) -> dict[str, Any]:
    """Relative errors of mean and 90th percentile."""
    result = {}
    for name, guess, measured in zip(Outcome._fields, found, true, strict=True):
        here, there = guess[chosen], measured[chosen]
        result[name] = {
            "mean": round(float(here.mean() / there.mean() - 1), 4),
            "p90": round(float(np.quantile(here, 0.9) / np.quantile(there, 0.9) - 1), 4),
        }
    return result


def coverage(drawn: Sequence[Outcome], true: Outcome, chosen: Chosen) -> dict[str, float]:
    """Share of windowed means that lie within the interval of the draws' means."""
    parts = np.array_split(np.flatnonzero(chosen), WINDOWS)
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    result = {}
    for index, name in enumerate(Outcome._fields):
        means = [[float(one[index][part].mean()) for part in parts] for one in drawn]
        low, high = np.quantile(np.array(means), ends, axis=0)
        measured = np.array([true[index][part].mean() for part in parts])
        result[name] = round(float(np.mean((low <= measured) & (measured <= high))), 3)
    return result | {"all": round(float(np.mean(list(result.values()))), 3)}


def validate(log: ServerLog) -> dict[str, Any]:
    """Everything that is printed for one log."""
    true = logged(log)
    everyone = np.ones(len(log.prompt), dtype=bool)
    at_once = log.scheduled - log.arrived < AT_ONCE_S
    zero = simulated(log, PhysicalStepTime(log.named.deployment()))

    cut = CUT * log.end_s
    which, chosen = "arrived after", log.arrived > cut
    if chosen.sum() < LEAST:
        which, chosen = "taken up after", log.scheduled > cut
    made = calibrate(log.spans(cut), log.named)
    found = simulated(log, made.step)
    drawn = [simulated(log, step) for step in made.file.replicates()]
    return {
        "requests": len(log.prompt),
        "seconds": round(log.end_s, 1),
        "deployment": msgspec.to_builtins(log.named),
        "kv_tokens": log.kv_tokens or _pool(log),
        "kv_tokens_told": log.kv_tokens is not None,
        "zero": errors(zero, true, everyone) | {"ttft_at_low_load": _low_load(zero, true, at_once)},
        "calibrated": errors(found, true, chosen)
        | {
            "ttft_at_low_load": _low_load(found, true, at_once),
            "seen_s": round(cut, 1),
            "predicted": {"requests": int(chosen.sum()), "which": which},
            "interval_coverage": coverage(drawn, true, chosen),
            "fit": made.file.fit,
            "efficiencies": msgspec.to_builtins(made.file.estimate.efficiencies),
            "overheads": msgspec.to_builtins(made.file.estimate.overheads),
        },
    }


def _low_load(found: Outcome, true: Outcome, at_once: Chosen) -> dict[str, Any]:
    """TTFT of those that the server took up at once: no queue is drained in it."""
    if not at_once.any():
        return {"requests": 0, "mean": None}
    error = found.ttft[at_once].mean() / true.ttft[at_once].mean() - 1
    median = np.median(found.ttft[at_once]) / np.median(true.ttft[at_once]) - 1
    return {
        "requests": int(at_once.sum()),
        "mean": round(float(error), 4),
        "median": round(float(median), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", type=Path, required=True, action="append")
    parser.add_argument("--on", help="the hardware, where the log does not name it")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    results = {path.resolve().name: validate(read_log(path, given.on)) for path in given.log}
    result = results if len(results) > 1 else next(iter(results.values()))
    text = json.dumps(result, indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text if given.json else "\n".join(_lines(name, one) for name, one in results.items()))


def _lines(name: str, one: dict[str, Any]) -> str:
    rows = [f"{name}: {one['requests']} requests in {one['seconds']:,.0f} s"]
    for kind in ("zero", "calibrated"):
        cells = [
            f"{metric} {one[kind][metric]['mean']:+.1%} (p90 {one[kind][metric]['p90']:+.1%})"
            for metric in Outcome._fields
        ]
        rows.append(f"  {kind:10}  {'  '.join(cells)}")
    late = one["calibrated"]
    rows.append(
        f"  calibrated on {late['seen_s']} s, judged on {late['predicted']['requests']} requests "
        f"{late['predicted']['which']}; intervals cover {late['interval_coverage']}"
    )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
