"""The window opens under load, and leaves out ramp and drain."""

import numpy as np

from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point
from penstock.record.steady import steady_window

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
