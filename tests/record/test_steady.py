"""The window opens under load, and leaves out ramp and drain."""

import numpy as np
import pytest

from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point
from penstock.record.steady import settled, steady_window

S = 10**9


def closed_loop(slots=4, seconds=30, ttft=0.05, itl=0.02, tokens=(10, 40), seed=1, slow_after=None):
    """A closed loop against a server of constant speed, drained at the end."""
    rng = np.random.default_rng(seed)
    free, records = [0.0] * slots, []
    while min(free) < seconds:
        slot = int(np.argmin(free))
        start, count = free[slot], int(rng.integers(*tokens))
        gap = itl * (3 if slow_after is not None and start > slow_after else 1)
        events = [int((start + ttft + i * gap) * S) for i in range(count)]
        records.append(
            Record(
                request_id=str(len(records)),
                outcome=Outcome.FINISHED,
                sched_ns=int(start * S),
                sent_ns=int(start * S),
                first_ns=events[0],
                last_ns=events[-1],
                end_ns=events[-1],
                event_ns=events,
                event_tokens=[1] * count,
                output_tokens=count,
            )
        )
        free[slot] = events[-1] / S
    return Point(
        load=Load(kind="closed", concurrency=slots),
        start_ns=0,
        stop_ns=seconds * S,
        end_ns=int(max(free) * S),
        warmup=slots,
        records=records,
    )


def test_opens_when_the_warm_up_has_ended_and_closes_with_the_load():
    point = closed_loop()
    window = steady_window(point)
    assert window.start_ns == sorted(r.end_ns for r in point.records)[3]
    assert window.end_ns == point.stop_ns < point.end_ns
    assert window.steady
    assert not window.whole_run


def test_warm_up_is_not_drained():
    """All slots stay busy across the opening of the window."""
    point = closed_loop()
    start = steady_window(point).start_ns
    busy = [r for r in point.records if r.sched_ns < start + S // 100 and r.end_ns > start]
    assert len(busy) == 4


def test_too_little_falls_back_to_the_whole_run_and_says_so():
    point = closed_loop(seconds=1)
    window = steady_window(point)
    assert window.whole_run
    assert not window.steady
    assert "too little" in window.reason
    assert (window.start_ns, window.end_ns) == (point.start_ns, point.end_ns)


def test_a_server_that_slows_down_is_not_steady():
    window = steady_window(closed_loop(slow_after=15))
    assert not window.steady
    assert "changed by -" in window.reason


def test_steady_servers_are_called_steady():
    verdicts = [steady_window(closed_loop(seed=seed)).steady for seed in range(20)]
    assert sum(verdicts) >= 18


def test_an_overloaded_open_loop_is_not_steady():
    """Requests come twice as fast as one server can answer: the wait grows."""
    records, free = [], 0.0
    for i in range(200):
        sched = i * 0.05
        start = max(free, sched)
        events = [int((start + 0.01 * (k + 1)) * S) for k in range(10)]
        free = events[-1] / S
        records.append(
            Record(
                request_id=str(i),
                outcome=Outcome.FINISHED,
                sched_ns=int(sched * S),
                sent_ns=int(sched * S),
                first_ns=events[0],
                last_ns=events[-1],
                end_ns=events[-1],
                event_ns=events,
                event_tokens=[1] * 10,
                output_tokens=10,
            )
        )
    point = Point(
        load=Load(kind="open", rate=20),
        start_ns=0,
        stop_ns=10 * S,
        end_ns=int(free * S),
        warmup=20,
        records=records,
    )
    window = steady_window(point)
    assert not window.steady
    assert "wait for the first token" in window.reason


def test_what_still_shows_the_start_is_left_out():
    """Ten seconds of a slow start after the warm-up, of sixty."""
    records = []
    for slot in range(4):
        at = 0.0
        while at < 60:
            gap = 0.02 * (3 if at < 10 else 1)
            events = [int((at + 0.05 + i * gap) * S) for i in range(25)]
            records.append(
                Record(
                    request_id=f"{slot}-{at}",
                    outcome=Outcome.FINISHED,
                    sched_ns=int(at * S),
                    sent_ns=int(at * S),
                    first_ns=events[0],
                    last_ns=events[-1],
                    end_ns=events[-1],
                    event_ns=events,
                    event_tokens=[1] * 25,
                    output_tokens=25,
                )
            )
            at = events[-1] / S
    point = Point(
        load=Load(kind="closed", concurrency=4),
        start_ns=0,
        stop_ns=60 * S,
        end_ns=61 * S,
        warmup=4,
        records=sorted(records, key=lambda r: r.sched_ns),
    )
    window = steady_window(point)
    assert 9 * S < window.start_ns < 13 * S
    assert window.trimmed_s == pytest.approx(window.start_ns / S - 1.49, abs=0.01)
    assert window.steady


def test_mser_cuts_a_transient_and_nothing_else():
    rng = np.random.default_rng(4)
    steady = rng.normal(10, 1, 100)
    assert settled([3.0] * 12 + steady.tolist()) in range(10, 16)
    assert settled([5.0] * 40) == 0
    assert settled(np.linspace(0, 10, 60).tolist()) == 0  # a drift is not a start
    assert settled([1.0] * 9) == 0
    cuts = [settled(rng.normal(10, 1, 40).tolist()) for _ in range(200)]
    assert np.mean(cuts) < 4  # a tenth
