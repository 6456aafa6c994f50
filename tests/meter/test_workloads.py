"""Workloads as a real server sees them: prompts, turns, times and samples."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.record.record import Outcome
from penstock.workload.agents import Agent
from penstock.workload.arrivals import Gamma
from penstock.workload.lengths import parse_lengths
from penstock.workload.plan import Answer
from penstock.workload.prompts import CutPrompts
from penstock.workload.sessions import Recorded, Sessions
from penstock.workload.shapes import Plain, Prefix
from penstock.workload.source import Source
from penstock.workload.traces import read_trace
from tests.meter.scripted import serving

ANSWER = "".join(f"w{i} " for i in range(8))  # what the scripted server says


def source(shape, **more):
    return Source(
        prompts=CutPrompts("some words of text\n" * 99, source="text", salt="s", seed=1),
        input_len=parse_lengths("30"),
        output_len=parse_lengths("8"),
        seed=1,
        shape=shape,
        **more,
    )


def shared(one, other):
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


async def drive(server, plan, *, chat=False, workers=1):
    """Send the plan; the records, and the bodies the server got after the first try."""
    target = await HttpTarget.open(server.url, chat=chat)
    server.bodies.clear()
    try:
        driven = Drive(target, plan, Limits(duration_s=60), workers)
        await driven.run()
    finally:
        await target.close()
    assert {record.outcome for record in driven.records} == {Outcome.FINISHED}
    return driven.records, server.bodies


async def test_turns_of_a_chat_carry_the_servers_own_answers():
    async with serving() as server:
        plan = source(Sessions(3, 3, 0.0)).closed(1, 1)
        records, bodies = await drive(server, plan, chat=True)
    assert [record.turn for record in records] == [0, 1, 2]
    assert [record.session_end for record in records] == [None, None, "completed"]
    said = bodies[2]["messages"]
    assert [message["role"] for message in said] == [
        *("user", "assistant", "user", "assistant", "user")
    ]
    assert said[1]["content"] == said[3]["content"] == ANSWER
    assert bodies[1]["messages"] == said[:3]


async def test_turns_of_a_completion_go_on_from_the_answer():
    async with serving() as server:
        records, bodies = await drive(server, source(Sessions(2, 2, 0.0)).closed(1, 1))
    assert bodies[1]["prompt"].startswith(bodies[0]["prompt"] + ANSWER)
    assert len({record.request_id for record in records}) == 2


async def test_thought_lies_between_the_answer_and_the_next_turn():
    async with serving() as server:
        plan = source(Sessions(4, 4, 0.1)).open(Gamma(20, 1.0), count=6)
        thought = {}
        for ask in plan.asks:
            follower = ask
            while not isinstance(follower, str):
                thought[follower.id] = follower.think_s
                follower = follower.follow(Answer(texts=("x",)))
        records, _ = await drive(server, plan, workers=2)
    assert len(records) == 24
    by_id = {record.request_id: record for record in records}
    for request_id, record in by_id.items():
        if record.turn:
            before = by_id[f"{record.session}.{record.turn - 1}"]
            waited = (record.sched_ns - before.end_ns) * 1e-9
            assert waited == pytest.approx(thought[request_id], abs=1e-6)
            assert record.sent_ns >= record.sched_ns


@pytest.mark.parametrize("workers", [1, 2])
async def test_recorded_sends_are_the_plans(workers):
    async with serving() as server:
        plan = source(Plain()).open(Gamma(60, 0.5), count=90)
        records, _ = await drive(server, plan, workers=workers)
    wanted = [ask.at_s for ask in plan.asks]
    starts = sorted(record.sched_ns for record in records)
    assert np.diff(starts) * 1e-9 == pytest.approx(np.diff(wanted), abs=1e-6)
    assert all(record.sent_ns >= record.sched_ns for record in records)
    late = sorted((record.sent_ns - record.sched_ns) * 1e-9 for record in records)
    assert late[len(late) // 2] < 0.05  # a busy machine is late, but not by rule


async def test_groups_reach_the_server_with_their_prefix():
    async with serving() as server:
        _, bodies = await drive(server, source(Prefix(2, 100)).closed(4, 24))
    heads = {body["prompt"][:400] for body in bodies}
    assert len(heads) == 2
    assert len({body["prompt"] for body in bodies}) == 24


async def test_agents_give_up_on_a_server_that_is_always_wrong():
    async with serving() as server:
        plan = source(Agent(calls=1, tries=2, tool_s=0.01)).closed(2, 4)
        records, bodies = await drive(server, plan)
    ends = [record.session_end for record in records if record.session_end]
    assert ends == ["given_up"] * 4
    assert len(bodies) == 4 * 3
    assert sum("That is wrong" in body["prompt"] for body in bodies) == 4


async def test_samples_are_asked_for():
    async with serving() as server:
        target = await HttpTarget.open(server.url)
        server.bodies.clear()
        await Drive(target, source(Plain(), n=3).closed(1, 2), Limits(duration_s=60)).run()
        await target.close()
    assert [body["n"] for body in server.bodies] == [3, 3]


def trace_file(name):
    data = os.environ.get("PENSTOCK_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(data) / "traces" / name
    if not path.exists():
        pytest.skip(f"{path} is not there; set PENSTOCK_DATA")
    return path


async def test_mooncake_reaches_the_server_with_the_prefixes_it_shared():
    trace = read_trace(trace_file("mooncake_conversation.jsonl"), limit=40)
    async with serving() as server:
        records, bodies = await drive(server, source(Plain()).replay(trace, speed=20))
    bodies = sorted(bodies, key=lambda body: len(body["prompt"]))
    assert len(records) == len(bodies) == 40
    # Every one of the trace's first requests begins with block 0.
    assert min(shared(a["prompt"], b["prompt"]) for a, b in pairwise(bodies)) >= 512 * 4 - 1
    assert sorted(len(body["prompt"]) for body in bodies) == pytest.approx(
        sorted(4.0 * trace.prompt_tokens), rel=0.01
    )


async def test_an_agentic_session_is_replayed_turn_by_turn():
    trace = read_trace(trace_file("agentic_coding_requests.csv.gz"), limit=4)
    turns = len(trace.sessions[0])
    async with serving() as server:
        plan = source(Recorded(trace, speed=1e4)).closed(1, 1)
        records, bodies = await drive(server, plan)
    assert [record.turn for record in records] == list(range(turns))
    one, two = (body["prompt"] for body in bodies[:2])
    assert shared(one, two) >= 0.99 * len(one)
