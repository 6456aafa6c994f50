"""The load is the load that was planned, and every request ends in a record."""

import asyncio
from time import monotonic_ns

import pytest

from penstock.meter.driver import FAILURES_IN_A_ROW, Drive, Limits
from penstock.meter.target import Reply, TargetInfo
from penstock.record.record import Outcome
from penstock.record.run import Load
from penstock.workload.plan import Answer, Ask, Plan


class FakeTarget:
    """Answers after `seconds`, one event half-way; counts how many are under way."""

    info = TargetInfo(kind="fake", name="fake", model="fake")

    def __init__(self, seconds=0.02, fail=False):
        self.seconds = seconds
        self.fail = fail
        self.now = self.most = 0

    async def send(self, ask, record):
        self.now += 1
        self.most = max(self.most, self.now)
        record.sent_ns = monotonic_ns()
        try:
            await asyncio.sleep(self.seconds / 2)
            record.first_ns = record.last_ns = monotonic_ns()
            record.event_ns, record.event_tokens = [record.first_ns], [5]
            await asyncio.sleep(self.seconds / 2)
        finally:
            self.now -= 1
        record.end_ns = monotonic_ns()
        record.output_tokens, record.prompt_tokens = 5, 10
        record.outcome = Outcome.FAILED if self.fail else Outcome.FINISHED
        record.error = "reset: x" if self.fail else None
        return Reply(["noted"], Answer(texts=("an answer",)))

    async def count_prompt(self, text):
        return None

    async def close(self):
        pass


def asks(count, gap_s=None):
    return [
        Ask(
            id=str(i),
            content="x",
            prompt_tokens=10,
            output_tokens=5,
            at_s=None if gap_s is None else i * gap_s,
        )
        for i in range(count)
    ]


def closed(slots, count, think_s=0.0):
    load = Load(kind="closed", concurrency=slots)
    return Plan(load=load, asks=asks(count), warmup=0, think_s=think_s)


def opened(count, gap_s):
    return Plan(load=Load(kind="open", rate=1 / gap_s), asks=asks(count, gap_s), warmup=0)


async def drive(target, plan, **limits):
    driven = Drive(target, plan, Limits(**({"duration_s": 30.0} | limits)))
    await driven.run()
    return driven


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def test_a_closed_loop_keeps_its_slots_full_and_no_more():
    target = FakeTarget()
    driven = await drive(target, closed(4, 20))
    assert target.most == 4
    assert driven.done == 20
    assert driven.caveats == {"noted": 20}
    assert sorted(int(r.request_id) for r in driven.records) == list(range(20))
    # The load stops when the first slot finds nothing left, before the last one ends.
    ends = sorted(r.end_ns for r in driven.records)
    assert ends[15] < driven.stop_ns
    assert driven.start_ns <= driven.records[0].sched_ns
    assert driven.end_ns >= ends[-1]


async def test_a_slot_is_wanted_again_when_it_becomes_free():
    driven = await drive(FakeTarget(), closed(1, 5))
    for before, after in zip(driven.records, driven.records[1:], strict=False):
        assert after.sched_ns == before.end_ns


async def test_think_time_is_waited_before_the_next_is_wanted():
    driven = await drive(FakeTarget(), closed(1, 3, think_s=0.05))
    for before, after in zip(driven.records, driven.records[1:], strict=False):
        assert after.sched_ns == before.end_ns + 50_000_000
        assert after.sent_ns >= after.sched_ns


async def test_an_open_loop_keeps_its_schedule_though_answers_are_slow():
    driven = await drive(FakeTarget(seconds=1.5), opened(20, 0.01))
    for i, record in enumerate(driven.records):
        assert record.sched_ns == driven.start_ns + int(i * 0.01 * 1e9)
        assert record.sent_ns >= record.sched_ns
    assert driven.target.most == 20


async def test_a_late_send_does_not_move_those_after_it():
    target = FakeTarget(seconds=0.001)
    driven = Drive(target, opened(30, 0.01), Limits(duration_s=30))

    async def block():
        await until(lambda: len(driven.records) > 8)
        deadline = monotonic_ns() + 80_000_000
        while monotonic_ns() < deadline:
            pass

    await asyncio.gather(driven.run(), block())
    late = [(r.sent_ns - r.sched_ns) * 1e-9 for r in driven.records]
    assert max(late) > 0.05  # it was late, and the record says so
    assert driven.records[-1].sched_ns == driven.start_ns + int(29 * 0.01 * 1e9)


async def test_time_limit_stops_the_load_and_lets_it_drain():
    driven = await drive(FakeTarget(seconds=0.1), closed(2, 1000), duration_s=0.25)
    assert "time limit" in driven.stopped_by
    assert driven.stop_ns - driven.start_ns >= 0.24e9
    assert {r.outcome for r in driven.records} == {Outcome.FINISHED}
    assert driven.end_ns > driven.stop_ns


async def test_what_does_not_drain_in_time_is_cut_and_is_no_error():
    driven = await drive(FakeTarget(seconds=60), closed(2, 10), duration_s=0.1, drain_s=0.1)
    assert [r.outcome for r in driven.records] == [Outcome.CANCELLED] * 2
    assert all(r.end_ns is not None for r in driven.records)


async def test_token_limit():
    driven = await drive(FakeTarget(), closed(1, 1000), tokens=60)
    assert driven.done == 4
    assert "60 tokens" in driven.stopped_by


async def test_a_dead_target_is_not_hammered_for_ever():
    driven = await drive(FakeTarget(seconds=0, fail=True), closed(2, 100_000))
    assert len(driven.records) <= FAILURES_IN_A_ROW + 2
    assert "failures in a row (the last: reset: x)" in driven.stopped_by


async def test_an_interruption_keeps_what_there_is():
    driven = Drive(FakeTarget(seconds=0.15), closed(2, 1000), Limits(duration_s=30))
    running = asyncio.create_task(driven.run())
    await until(lambda: driven.done == 2)
    driven.interrupt()
    await running
    outcomes = [r.outcome for r in driven.records]
    assert outcomes[:2] == [Outcome.FINISHED] * 2
    assert outcomes[2:] in ([Outcome.UNFINISHED], [Outcome.UNFINISHED] * 2)
    assert driven.stop_ns is not None


async def test_interrupting_an_open_loop():
    driven = Drive(FakeTarget(seconds=60), opened(1000, 0.01), Limits(duration_s=30))
    running = asyncio.create_task(driven.run())
    await until(lambda: len(driven.records) > 2)
    driven.interrupt()
    await asyncio.wait_for(running, 10)
    assert len(driven.records) < 1000
    assert {r.outcome for r in driven.records} == {Outcome.UNFINISHED}


async def test_a_bug_in_a_target_is_not_swallowed():
    class Broken(FakeTarget):
        async def send(self, ask, record):
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup):
        await drive(Broken(), closed(2, 10))
