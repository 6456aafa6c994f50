"""Worker processes: the load is the plan's however many send it, and nothing is lost in silence."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from penstock.meter.driver import FAILURES_IN_A_ROW, Drive, Limits, workers_for
from penstock.meter.http import HttpTarget
from penstock.record.record import Outcome
from penstock.record.run import Load
from penstock.workload.plan import Ask, End, Plan
from tests.meter.scripted import serving


def ask(number, at_s=None, **more):
    return Ask(
        id=str(number), content=f"p{number}", prompt_tokens=1, output_tokens=8, at_s=at_s, **more
    )


def opened(rate, count):
    offsets = np.random.default_rng(7).exponential(1 / rate, count).cumsum()
    asks = [ask(i, at_s) for i, at_s in enumerate(offsets.tolist())]
    return Plan(load=Load(kind="open", rate=rate), asks=asks, warmup=0)


def closed(slots, count, think_s=0.0, **more):
    asks = [ask(i, **more) for i in range(count)]
    load = Load(kind="closed", concurrency=slots)
    return Plan(load=load, asks=asks, warmup=0, think_s=think_s)


async def drive(url, plan, workers, meanwhile=None, *, timeout_s=600.0, **limits):
    """Run the plan; `meanwhile` is called with the drive while it runs."""
    target = await HttpTarget.open(url, timeout_s=timeout_s)
    driven = Drive(target, plan, Limits(**({"duration_s": 60.0} | limits)), workers)
    try:
        running = asyncio.create_task(driven.run())
        if meanwhile is not None:
            await meanwhile(driven)
        await running
    finally:
        await target.close()
    return driven


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def pids(driven):
    return [worker.process.pid for worker in driven._sender._workers]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 3])
async def test_what_is_sent_when_does_not_depend_on_the_number_of_workers(workers):
    plan = opened(rate=80, count=120)
    async with serving(ttft_s=0.005, itl_s=0.001) as server:
        driven = await drive(server.url, plan, workers)
    assert driven.workers == workers
    assert driven.done == 120
    assert [r.request_id for r in driven.records] == [each.id for each in plan.asks]
    for record, each in zip(driven.records, plan.asks, strict=True):
        assert record.sched_ns == driven.start_ns + int(each.at_s * 1e9)
        assert record.sent_ns >= record.sched_ns
    late_ms = [(r.sent_ns - r.sched_ns) * 1e-6 for r in driven.records]
    assert np.median(late_ms) < 5
    assert driven.stop_ns >= driven.records[-1].sched_ns
    assert driven.stopped_by is None


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_a_closed_loop_keeps_its_slots_full_and_no_more(workers):
    async with serving(ttft_s=0.03, itl_s=0.002) as server:
        driven = await drive(server.url, closed(6, 60), workers)
    assert driven.done == 60
    assert sorted(int(r.request_id) for r in driven.records) == list(range(60))
    moments = sorted((t, d) for r in driven.records for t, d in ((r.sent_ns, 1), (r.end_ns, -1)))
    under_way = np.cumsum([d for _, d in moments])
    assert under_way.max() == 6
    # A slot is wanted again when it is free: its sends continue its ends.
    ends = {r.end_ns for r in driven.records}
    assert all(r.sched_ns in ends or r.sched_ns == driven.start_ns for r in driven.records)


async def test_a_worker_with_quick_answers_does_not_end_the_load_of_the_others():
    async with serving(itl_s=0.001, service_s=0.03, seed=3) as server:
        driven = await drive(server.url, closed(slots=2, count=60), workers=2)
    assert driven.done == 60
    # From the moment a slot stayed empty the load is not what it says it is.
    assert driven.stop_ns == driven.thinned_ns
    shares = [[r.end_ns for r in driven.records if int(r.request_id) % 2 == i] for i in (0, 1)]
    assert driven.stop_ns == pytest.approx(min(map(max, shares)), abs=20e6)


async def test_more_workers_than_slots_are_not_started():
    async with serving() as server:
        driven = await drive(server.url, closed(2, 4), 9)
    assert driven.workers == 2
    assert driven.done == 4


async def test_think_time_is_waited_before_the_next_is_wanted():
    async with serving() as server:
        driven = await drive(server.url, closed(1, 3, think_s=0.05), 1)
    for before, after in zip(driven.records, driven.records[1:], strict=False):
        assert after.sched_ns == before.end_ns + 50_000_000
        assert after.sent_ns >= after.sched_ns


async def test_a_slow_server_changes_no_schedule():
    plan = opened(rate=100, count=50)
    async with serving(ttft_s=1.2, itl_s=0.001) as server:
        driven = await drive(server.url, plan, 2)
    assert driven.done == 50
    for record, each in zip(driven.records, plan.asks, strict=True):
        assert record.sched_ns == driven.start_ns + int(each.at_s * 1e9)
    assert max(r.sent_ns for r in driven.records) < min(r.first_ns for r in driven.records)


async def test_connections_stand_before_the_load_starts():
    async with serving() as server:
        opened_before = []

        async def look(driven):
            await until(lambda: driven.start_ns)
            opened_before.append(server.connections)

        await drive(server.url, closed(40, 80), 2, look)
    assert opened_before[0] >= 40


async def test_a_killed_worker_loses_what_was_in_flight_and_it_is_said():
    async def kill(driven):
        await until(lambda: driven.done >= 10)
        os.kill(pids(driven)[1], signal.SIGKILL)

    async with serving(ttft_s=0.05, itl_s=0.005) as server:
        driven = await drive(server.url, closed(4, 10_000), 2, kill)
    assert driven.stopped_by == "the loss of worker 2 of 2"
    (missing,) = driven.missing
    assert "worker 2 of 2 was killed by signal 9" in missing
    outcomes = [r.outcome for r in driven.records]
    assert outcomes.count(Outcome.FINISHED) >= 10
    lost = [r for r in driven.records if r.outcome is Outcome.UNFINISHED]
    assert 1 <= len(lost) <= 2  # at most its two slots
    assert f"{len(lost)} requests under way" in missing
    assert all("lost with its worker" in r.error for r in lost)
    assert len(lost) + outcomes.count(Outcome.FINISHED) == len(outcomes)


async def test_the_loss_of_every_worker_ends_the_run():
    async def kill(driven):
        await until(lambda: driven.done >= 3)
        for pid in pids(driven):
            os.kill(pid, signal.SIGKILL)

    async with serving(itl_s=0.02) as server:
        driven = await drive(server.url, opened(50, 1000), 2, kill)
    assert len(driven.missing) == 2
    assert driven.done >= 3


async def test_an_interruption_keeps_what_there_is():
    async def interrupt(driven):
        await until(lambda: driven.done >= 4)
        await asyncio.sleep(0.25)
        driven.interrupt()

    started = time.monotonic()
    async with serving(ttft_s=0.1, itl_s=0.05) as server:
        driven = await drive(server.url, closed(4, 1000), 2, interrupt)
    assert time.monotonic() - started < 30
    outcomes = [r.outcome for r in driven.records]
    assert outcomes.count(Outcome.FINISHED) >= 4
    unfinished = [r for r in driven.records if r.outcome is Outcome.UNFINISHED]
    assert 1 <= len(unfinished) <= 4
    assert all(r.error == "interrupted" for r in unfinished)
    assert any(r.event_ns for r in unfinished)  # what had come of them came over
    assert driven.in_flight == len(unfinished)


async def test_interrupted_before_the_load_starts():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        driven = Drive(target, closed(2, 1000), Limits(duration_s=60), 2)
        running = asyncio.create_task(driven.run())
        await asyncio.sleep(0.01)
        driven.interrupt()
        await asyncio.wait_for(running, 30)
        await target.close()
    assert len(driven.records) <= 2


async def test_time_limit_stops_the_load_and_lets_it_drain():
    async with serving(ttft_s=0.1) as server:
        driven = await drive(server.url, closed(4, 10_000), 2, duration_s=0.5)
    assert "time limit" in driven.stopped_by
    assert driven.stop_ns == driven.start_ns + 500_000_000
    assert all(r.sched_ns <= driven.stop_ns for r in driven.records)
    assert {r.outcome for r in driven.records} == {Outcome.FINISHED}


async def test_what_does_not_drain_in_time_is_cut_and_is_no_error():
    async with serving(ttft_s=0.05, itl_s=60) as server:
        server.script.itl_s = 0.001
        target = await HttpTarget.open(server.url)
        server.script.itl_s = 60
        driven = Drive(target, closed(2, 10), Limits(duration_s=0.3, drain_s=0.3), 2)
        await driven.run()
        await target.close()
    assert [r.outcome for r in driven.records] == [Outcome.CANCELLED] * 2
    assert all(len(r.event_ns) == 1 for r in driven.records)


async def test_a_dead_target_is_not_hammered_for_ever():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
    driven = Drive(target, closed(2, 100_000), Limits(duration_s=60), 2)
    await driven.run()
    assert driven.done == 0
    assert driven.failed >= FAILURES_IN_A_ROW
    assert "failures in a row (the last: " in driven.stopped_by
    assert len(driven.records) < 10_000


async def test_sessions_follow_their_answers_and_keep_their_slot():
    ended = []

    def follow_up(session, turn):
        def follow(answer):
            assert answer.texts[0].startswith("w0 ")
            if turn == 3:
                ended.append(session)
                return End.COMPLETED
            return ask(f"{session}.{turn + 1}", think_s=0.02, follow=follow_up(session, turn + 1))

        return follow

    plan = closed(2, 6)
    plan.asks = [ask(f"{i}.1", follow=follow_up(i, 1)) for i in range(6)]
    async with serving(ttft_s=0.01, itl_s=0.001) as server:
        driven = await drive(server.url, plan, 2)
    records = {r.request_id: r for r in driven.records}
    for session in ended:
        for turn in (2, 3):
            before = records[f"{session}.{turn - 1}"]
            assert records[f"{session}.{turn}"].sched_ns == before.end_ns + 20_000_000
    # The load stops when a slot finds nothing left, so the other may be in its last session.
    assert len(ended) >= 5
    moments = sorted((t, d) for r in driven.records for t, d in ((r.sent_ns, 1), (r.end_ns, -1)))
    assert np.cumsum([d for _, d in moments]).max() <= 2


async def test_an_open_loop_waits_for_its_sessions():
    plan = opened(50, 5)
    plan.asks = [
        ask(i, at_s=0.01 * i, follow=lambda answer, i=i: ask(f"{i} again", think_s=0.2))
        for i in range(5)
    ]
    async with serving() as server:
        driven = await drive(server.url, plan, 2)
    assert driven.done == 10
    assert driven.stop_ns >= max(r.sched_ns for r in driven.records)


async def heard(url, plan):
    """Run the plan with one worker; how often the driver was woken from the load's start on."""
    times = []

    async def count(driven):
        await until(lambda: driven._sender._workers)
        reader = driven._sender._workers[0].reader
        read = reader.read

        async def counted(most):
            data = await read(most)
            times.append(time.monotonic_ns())
            return data

        reader.read = counted

    driven = await drive(url, plan, 1, count)
    return driven, sum(at_ns >= driven.start_ns for at_ns in times)


async def test_the_driver_of_a_busy_worker_is_seldom_woken():
    async with serving(ttft_s=0.5) as server:
        driven, woken = await heard(server.url, opened(rate=400, count=600))
    assert driven.done == 600
    seconds = (driven.end_ns - driven.start_ns) * 1e-9
    assert woken < seconds / 0.05 + 100  # the first and the last 50 are told one by one


async def test_a_session_does_not_wait_until_the_driver_is_told_of_the_others():
    plan = opened(50, 5)
    crowd = [ask(i, at_s=i / 400) for i in range(400)]
    plan.asks = sorted(
        [
            *crowd,
            *(
                ask(f"s{i}", at_s=0.4 + 0.03 * i, follow=lambda _, i=i: ask(f"s{i} again"))
                for i in range(9)
            ),
        ],
        key=lambda each: each.at_s,
    )
    async with serving(ttft_s=0.3) as server:
        driven = await drive(server.url, plan, 1)
    assert driven.done == len(plan.asks) + 9
    late_ms = [(r.sent_ns - r.sched_ns) * 1e-6 for r in driven.records if "again" in r.request_id]
    assert np.median(late_ms) < 20


async def test_a_bug_in_following_is_not_swallowed():
    plan = closed(1, 3)
    plan.asks = [ask(i, follow=lambda answer: 1 // 0) for i in range(3)]
    async with serving() as server:
        with pytest.raises(ZeroDivisionError):
            await drive(server.url, plan, 1)


async def test_no_worker_outlives_its_drive():
    seen = []

    async def look(driven):
        await until(lambda: driven.done)
        seen.extend(pids(driven))

    async with serving() as server:
        await drive(server.url, closed(2, 20), 2, look)
    assert len(seen) == 2
    assert all(map(gone, seen))


async def test_whole_answers_have_a_total_time_and_nothing_else():
    async def whole(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"POST" not in head:
                text = b'{"data": [{"id": "m"}]}'
            else:
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                assert b'"stream":false' in await reader.readexactly(length)
                await asyncio.sleep(0.05)
                text = (
                    b'{"choices": [{"text": "one two", "finish_reason": "length"}],'
                    b' "usage": {"prompt_tokens": 7, "completion_tokens": 2}}'
                )
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            writer.write(head % len(text) + text)

    server = await asyncio.start_server(whole, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    target = await HttpTarget.open(url, stream=False)
    driven = Drive(target, closed(2, 6), Limits(duration_s=60), 1)
    await driven.run()
    await target.close()
    server.close()
    assert driven.done == 6
    for record in driven.records:
        assert record.first_ns is None
        assert (record.output_tokens, record.prompt_tokens) == (2, 7)
        assert record.last_ns - record.sent_ns >= 50_000_000


def test_how_many_workers():
    cores = len(os.sched_getaffinity(0))
    assert workers_for(closed(16, 1)) == 1
    assert workers_for(closed(1000, 1)) == 1
    assert workers_for(closed(100_000, 1)) == max(1, cores - 1)
