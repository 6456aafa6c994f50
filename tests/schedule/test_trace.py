"""A production trace through the scheduler alone: fast, the same with and without leaps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from benchmarks.scheduler_speed import Row, replay

from penstock.schedule import Policy, Scheduler, Sequence

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TRACE = DATA / "traces" / "mooncake_conversation.jsonl"


@pytest.mark.skipif(not TRACE.exists(), reason=f"{TRACE} is not there; set PENSTOCK_DATA")
def test_an_hour_of_production_takes_seconds_and_leaps_change_nothing() -> None:
    decoder = msgspec.json.Decoder(Row)
    rows = [decoder.decode(line) for line in TRACE.read_bytes().splitlines()]
    leapt, walked = (replay(rows, 200_000, leaps=leaps) for leaps in (True, False))
    assert leapt["elapsed_s"] < 10
    assert leapt["plans"] < walked["plans"] / 3
    for figure in ("requests", "steps", "preemptions", "virtual_s"):
        assert leapt[figure] == walked[figure]


def quiet_step_s(running: int) -> float:
    """Seconds of a step in which `running` sequences decode and nothing else happens."""
    policy = Policy(max_running=running, max_step_tokens=running + 20_000, max_waiting=running)
    scheduler = Scheduler(policy, pages=2 * running, page_size=4096)
    for i in range(running):
        scheduler.add(Sequence(id=i, prompt=8, limit=4000))
    for _ in range(50):
        plan = scheduler.schedule()
        assert plan is not None
        scheduler.apply(plan)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(100):
            plan = scheduler.schedule()
            assert plan is not None
            scheduler.apply(plan)
        best = min(best, time.perf_counter() - started)
    assert len(plan.decodes) == running
    return best / 100


def test_a_quiet_step_costs_the_same_however_many_run() -> None:
    assert quiet_step_s(2000) < 3 * quiet_step_s(2)
