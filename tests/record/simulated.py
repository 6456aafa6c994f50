"""Runs of a made-up server whose speed wanders, so that neighbouring values are alike."""

from __future__ import annotations

import numpy as np

from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point, Run
from penstock.record.summary import summarise

S = 10**9
GRID_S = 0.02


def wandering(rng, seconds, deviation, memory_s):
    """Log-speed as an Ornstein-Uhlenbeck process on a grid of GRID_S."""
    keep = np.exp(-GRID_S / memory_s)
    noise = rng.normal(size=int(seconds / GRID_S)) * deviation * np.sqrt(1 - keep**2)
    values = np.empty_like(noise)
    values[0] = rng.normal() * deviation
    for i in range(1, len(noise)):
        values[i] = keep * values[i - 1] + noise[i]
    return np.exp(values)


def closed_point(
    seed, speed=1.0, slots=8, seconds=40, deviation=0.08, memory_s=1.0, repeat=0, offset=0.0
):
    """A closed loop: prefill 60 ms, 20 ms a token, both divided by a speed that wanders.

    `offset` is the standard deviation of what changes from run to run.
    """
    rng = np.random.default_rng(seed)
    pace = wandering(rng, seconds * 1.5, deviation, memory_s) * speed
    pace *= np.exp(offset * rng.normal())
    clock = np.arange(len(pace) + 1) * GRID_S
    work = np.concatenate([[0.0], np.cumsum(pace * GRID_S)])  # nominal seconds done by then
    free, records = list(rng.uniform(0, 0.01, slots)), []
    while min(free) < seconds:
        slot = int(np.argmin(free))
        start, count = free[slot], int(rng.integers(16, 64))
        nominal = rng.gamma(9, 0.06 / 9) + np.concatenate(
            [[0.0], np.cumsum(rng.gamma(4, 0.02 / 4, count - 1))]
        )
        at = np.interp(np.interp(start, clock, work) + nominal, work, clock)
        events = (at * S).astype(np.int64).tolist()
        records.append(
            Record(
                request_id=str(len(records)),
                outcome=Outcome.FINISHED,
                sched_ns=int(start * S),
                sent_ns=int(start * S) + 100_000,
                first_ns=events[0],
                last_ns=events[-1],
                end_ns=events[-1],
                event_ns=events,
                event_tokens=[1] * count,
                output_tokens=count,
                prompt_tokens=100,
                counted_by="server usage",
            )
        )
        free[slot] = float(at[-1])
    return Point(
        load=Load(kind="closed", concurrency=slots),
        start_ns=0,
        stop_ns=seconds * S,
        end_ns=int(max(free) * S),
        warmup=slots,
        repeat=repeat,
        conditions={"prompts": "unique", "seed": 0},
        records=records,
    )


def run_of(*points):
    run = Run(
        started="2026-01-01T00:00:00+00:00",
        target={"kind": "http", "name": "http://x", "model": "m", "facts": None},
        points=list(points),
    )
    run.summary = summarise(run)
    return run
