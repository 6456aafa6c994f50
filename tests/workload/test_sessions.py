"""Sessions and agents, driven by answers as a server would give them."""

import numpy as np
import pytest

from penstock.workload.agents import Agent
from penstock.workload.lengths import parse_lengths
from penstock.workload.plan import Answer, Ask, End
from penstock.workload.prompts import CutPrompts, as_text
from penstock.workload.sessions import Recorded, Sessions
from penstock.workload.source import Source
from penstock.workload.traces import Trace


def source(shape, **more):
    return Source(
        prompts=CutPrompts("some words of text\n" * 99, source="text", salt="s", seed=1),
        input_len=parse_lengths("30"),
        output_len=parse_lengths("8"),
        seed=1,
        shape=shape,
        **more,
    )


def answer(text="an answer", tokens=8):
    return Answer(texts=(text,), output_tokens=tokens)


def play(ask, reply=answer):
    """Drive a session to its end; the asks, and how it ended."""
    asks = [ask]
    while isinstance(step := asks[-1].follow(reply()), Ask):
        asks.append(step)
    return asks, step


def test_every_turn_carries_the_conversation_with_the_real_answers():
    asks, end = play(source(Sessions(3, 3, 2.0)).closed(1, 1).asks[0])
    assert end is End.COMPLETED
    assert [ask.turn for ask in asks] == [0, 1, 2]
    assert [message["role"] for message in asks[2].content] == [
        *("user", "assistant", "user", "assistant", "user")
    ]
    assert asks[2].content[1]["content"] == asks[2].content[3]["content"] == "an answer"
    assert asks[1].content == asks[2].content[:3]  # an ask once sent does not change
    assert [ask.prompt_tokens for ask in asks] == [30, 68, 106]
    assert len({ask.id for ask in asks}) == 3
    assert {ask.session for ask in asks} == {"0"}


def test_as_text_a_conversation_is_its_own_prefix():
    asks, _ = play(source(Sessions(3, 3, 0.0)).closed(1, 1).asks[0])
    first, second, third = (as_text(ask.content) for ask in asks)
    assert second.startswith(first + "an answer")
    assert third.startswith(second + "an answer")


def test_turns_and_thought_are_as_written():
    sessions = [play(ask)[0] for ask in source(Sessions(2, 5, 3.0)).closed(1, 400).asks]
    assert {len(asks) for asks in sessions} == {2, 3, 4, 5}
    assert all(asks[0].think_s == 0 for asks in sessions)
    thought = [ask.think_s for asks in sessions for ask in asks[1:]]
    assert np.mean(thought) == pytest.approx(3.0, rel=5 / len(thought) ** 0.5)
    assert np.std(thought) == pytest.approx(np.mean(thought), rel=0.2)  # exponential


def test_an_ask_looked_at_again_is_a_session_of_its_own():
    asks = source(Sessions(3, 3, 1.0)).closed(1, 1).asks
    one, two = asks[0], asks[0]
    assert (one.content, one.id) == (two.content, two.id)
    one.follow(answer("first"))
    assert two.follow(answer("second")).content[1]["content"] == "second"


def test_a_session_ends_when_a_request_fails_or_the_context_is_full():
    ask = source(Sessions(9, 9, 0.0)).closed(1, 1).asks[0]
    assert ask.follow(Answer(error="http_500: no")) is End.BROKEN
    # 30 + 8 a turn and estimated lengths, so 150 of these 200 tokens: three turns fit.
    asks, end = play(source(Sessions(9, 9, 0.0), context=200).closed(1, 1).asks[0])
    assert (len(asks), end) == (3, End.GIVEN_UP)


def test_tokens_nobody_counted_are_not_made_up():
    ask = source(Sessions(2, 2, 0.0)).closed(1, 1).asks[0]
    assert ask.follow(Answer(texts=("x",))).prompt_tokens is None


def recorded():
    return Trace(
        format="test",
        at_s=np.zeros(3),
        prompt_tokens=np.array([128, 200, 90]),
        output_tokens=np.array([5, 6, 7]),
        blocks=[((0, 2),), ((0, 3),), ((5, 6),)],
        block_tokens=64,
        think_s=[0.0, 4.0, 0.0],
        sessions=[np.array([0, 1]), np.array([2])],
    )


def test_sessions_of_a_trace_keep_lengths_sharing_and_thought():
    first, second, again = source(Recorded(recorded(), speed=2.0)).closed(1, 3).asks
    asks, end = play(first)
    assert end is End.COMPLETED
    assert [(a.prompt_tokens, a.output_tokens, a.think_s) for a in asks] == [
        (128, 5, 0.0),
        (200, 6, 2.0),
    ]
    assert asks[1].content.startswith(asks[0].content)
    assert second.follow(answer()) is End.COMPLETED
    # The third session is the first once more, and no cache may know it.
    assert again.prompt_tokens == 128
    assert again.content[:14] != first.content[:14]


class Sum:
    """A task whose answer is 4."""

    def question(self):
        return "2 + 2 ="

    def is_right(self, continuation):
        return continuation.strip() == "4"


def agent(**more):
    return Agent(calls=2, tries=3, tool_s=1.5, task=lambda seed, index: Sum(), **more)


def test_an_agent_calls_tools_answers_and_is_checked():
    said = iter(["call", "call", " 4"])
    asks, end = play(source(agent()).closed(1, 1).asks[0], lambda: answer(next(said)))
    assert end is End.COMPLETED
    assert [ask.think_s for ask in asks] == [0.0, 1.5, 1.5]
    assert [ask.output_tokens for ask in asks] == [8, 8, 32]
    assert asks[2].content[-1]["content"].endswith("2 + 2 =")
    assert "2 + 2" not in asks[1].content[-1]["content"]


def test_an_agent_that_was_wrong_is_told_so_and_tries_again():
    said = iter(["call", "4", "5", "4"])  # a right answer to no question does not count
    asks, end = play(source(agent()).closed(1, 1).asks[0], lambda: answer(next(said)))
    assert end is End.COMPLETED
    assert len(asks) == 4
    assert "wrong" in asks[3].content[-1]["content"]
    assert asks[3].content[-2]["content"] == "5"
    asks, end = play(source(agent()).closed(1, 1).asks[0], lambda: answer("5"))
    assert (len(asks), end) == (5, End.GIVEN_UP)
    assert source(agent()).closed(1, 1).asks[0].follow(Answer(error="reset")) is End.BROKEN


def test_an_agent_of_doctests_is_right_when_python_is():
    shape = Agent(calls=0, tries=1)
    for index, ask in enumerate(source(shape).closed(1, 20).asks):
        task = shape.task(1, index).task
        assert as_text(ask.content).endswith(task.prompt)
        assert ask.follow(answer("no such answer")) is End.GIVEN_UP
        fresh = source(shape).closed(1, 20).asks[index]
        assert fresh.follow(answer(repr(eval(task.expression)) + "\nmore")) is End.COMPLETED
