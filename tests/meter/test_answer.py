"""Tokens are counted by whom the definitions say, and laid on the events that brought them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.meter.answer import read_answer
from penstock.meter.tokens import apportion, evenly
from penstock.record import metrics
from penstock.record.record import Outcome, Record

MS = 1_000_000


def event(text="w ", *, at=None, finish=None, usage=None, **choice):
    chunk = {"choices": [{"text": text, "finish_reason": finish, **choice}]}
    if usage is not None:
        chunk["usage"] = {"prompt_tokens": 9, "completion_tokens": usage}
    return chunk


def usage(tokens, **details):
    return {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens, **details}}


def read(*chunks, done=True, tokenizer=None, error=None):
    """One event every 10 ms."""
    lines = [c if isinstance(c, bytes) else json.dumps(c).encode() for c in chunks]
    lines += [b"[DONE]"] if done else []
    record = Record(request_id="r", sched_ns=0, sent_ns=0)
    pieces = [((i + 1) * 10 * MS, b"data: " + line + b"\n\n") for i, line in enumerate(lines)]
    return record, read_answer(pieces, record, tokenizer, error).notes


def test_usage_at_the_end_one_token_an_event():
    record, notes = read(event(), event(), event(finish="length"), usage(3))
    assert record.outcome is Outcome.FINISHED
    assert (record.output_tokens, record.counted_by) == (3, "server usage")
    assert (record.event_tokens, record.laid_by) == ([1, 1, 1], "evenly")
    assert (record.prompt_tokens, record.words) == (9, 3)
    assert (record.first_ns, record.last_ns) == (10 * MS, 30 * MS)
    assert notes == []


def test_role_only_and_empty_events_are_no_output():
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    record, _ = read(role, event(""), event(), event(), event("", finish="length"), usage(2))
    assert record.event_ns == [30 * MS, 40 * MS]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"content": [{"type": "text", "text": "hm"}]},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    ],
    ids=str,
)
def test_reasoning_and_tool_calls_are_output(delta):
    chat = {"choices": [{"delta": delta, "finish_reason": None}]}
    record, _ = read(chat, event(finish="length"), usage(2))
    assert record.first_ns == 10 * MS


def test_usage_on_every_event_lays_the_tokens():
    record, notes = read(
        event(usage=3), event(usage=4), event("", usage=4), event(usage=9, finish="length")
    )
    assert (record.event_tokens, record.laid_by) == ([3, 1, 5], "event usage")
    assert notes == []
    assert metrics.tpot(record) == pytest.approx(0.030 / 6)


def test_a_token_without_text_is_an_event_when_usage_grows():
    record, _ = read(event(usage=1), event("", usage=2), event("", usage=3, finish="stop"))
    assert record.event_tokens == [1, 1, 1]


def test_token_ids_lay_the_tokens_and_count_them_without_usage():
    chunks = event(token_ids=[1, 2]), event("", token_ids=[3]), event("", finish="length")
    record, notes = read(*chunks)
    assert (record.event_tokens, record.laid_by) == ([2, 1], "token ids")
    assert (record.output_tokens, record.counted_by) == (3, "token ids")
    assert notes == []


@pytest.mark.parametrize(
    "logprobs", [{"tokens": ["a", "b"]}, {"content": [{"token": "a"}, {"token": "b"}]}]
)
def test_logprobs_lay_the_tokens(logprobs):
    record, _ = read(event(logprobs=logprobs), event(logprobs=logprobs, finish="length"), usage(4))
    assert (record.event_tokens, record.laid_by) == ([2, 2], "logprobs")


def test_a_final_eos_that_was_counted_but_never_sent_lies_on_no_event():
    record, notes = read(event(), event(), event(""), event("", finish="stop"), usage(3))
    assert record.output_tokens == 3
    assert record.event_tokens == [1, 1]
    assert metrics.tpot(record) == pytest.approx(0.010)
    assert notes == []


def test_several_tokens_an_event_without_telling_is_said():
    record, notes = read(event(), event(), event(finish="length"), usage(9))
    assert record.event_tokens == [1, 4, 4]
    assert "spread evenly" in notes[0]


def test_counts_that_disagree_are_said_and_usage_wins():
    ids = [event(token_ids=[1, 2]), event(token_ids=[3, 4], finish="length")]
    record, notes = read(*ids, usage(8))
    assert record.event_tokens == [4, 4]
    assert "disagree" in notes[0]


def test_without_any_count_tokens_are_unknown():
    record, notes = read(event(), event(finish="length"))
    assert record.outcome is Outcome.FINISHED
    assert record.output_tokens is None
    assert record.event_tokens == []
    assert metrics.tpot(record) is None
    assert "no token count" in notes[0]


def test_cached_tokens():
    record, _ = read(event(finish="length"), usage(1, prompt_tokens_details={"cached_tokens": 4}))
    assert record.cached_tokens == 4


@pytest.mark.parametrize(
    ("chunks", "done", "error"),
    [
        ([event(), {"error": {"message": "out of\nmemory"}}], True, "server_error: out of memory"),
        ([event(), b"{"], True, "malformed_event"),
        ([event(), b'{"choices": 5}'], True, "malformed_event"),
        ([event(), b'{"choices": [{"text": "\xff"}]}'], True, "malformed_event"),
        ([event(), event()], False, "truncated"),
        ([], False, "truncated"),
        ([event("", finish="stop"), usage(0)], True, "empty_answer"),
    ],
)
def test_what_is_wrong_is_named_and_is_a_failure(chunks, done, error):
    record, _ = read(*chunks, done=done)
    assert record.outcome is Outcome.FAILED
    assert record.error.startswith(error)


def test_an_end_without_done_is_an_end():
    record, _ = read(event(), event(finish="length"), usage(2), done=False)
    assert record.outcome is Outcome.FINISHED


def test_what_comes_after_done_is_not_read():
    record, _ = read(event(finish="length"), usage(1), b"[DONE]", b"{garbage")
    assert record.outcome is Outcome.FINISHED


def test_what_came_before_a_break_is_kept_as_waste():
    record, _ = read(event(usage=2), event(usage=4), done=False, error="reset: gone")
    assert record.error == "reset: gone"
    assert metrics.wasted_tokens([record]) == 4


def test_usage_that_goes_backwards_is_not_laid():
    record, _ = read(event(usage=5), event(usage=2), event(usage=6, finish="length"))
    assert record.laid_by == "evenly"
    assert sum(record.event_tokens) == record.output_tokens


@given(st.integers(0, 500), st.integers(1, 60))
def test_even_shares_sum_and_start_with_one(tokens, events):
    shares = evenly(tokens, events)
    assert sum(shares) == tokens
    assert len(shares) == events
    assert min(shares) >= 0
    if events > 1 and tokens:
        assert shares[0] == 1
        assert max(shares[1:]) - min(shares[1:]) <= 1


@given(st.integers(0, 500), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_apportioned_shares_sum(tokens, weights):
    shares = apportion(tokens, weights)
    assert sum(shares) == tokens
    assert min(shares) >= 0


class Words:
    """A tokenizer of one token a word."""

    def encode(self, text, add_special_tokens=True):
        ends, offsets = 0, []
        for word in text.split(" "):
            offsets.append((ends, ends + len(word)))
            ends += len(word) + 1
        self.offsets = [o for o in offsets if o[0] < o[1]]
        self.ids = list(range(len(self.offsets)))
        return self


def test_a_local_tokenizer_lays_and_counts_where_the_server_does_not():
    chunks = [event("one two "), event("thr"), event("ee four", finish="length")]
    record, _ = read(*chunks, tokenizer=Words())
    assert (record.output_tokens, record.counted_by) == (4, "local tokenizer")
    assert (record.event_tokens, record.laid_by) == ([2, 0, 2], "local tokenizer")


def test_a_local_tokenizer_checks_the_servers_count():
    text = "one two three four five six seven eight nine ten"
    _, notes = read(event(text, usage=30, finish="length"), tokenizer=Words())
    assert any("local tokenizer" in note for note in notes)
    _, notes = read(event(text, usage=10, finish="length"), tokenizer=Words())
    assert notes == []


_TEXT = st.sampled_from(["w ", "", "a\n\ndata: {b", "\r", "é", "[DONE]"])
_DELTA = st.fixed_dictionaries(
    {"content": _TEXT},
    optional={
        "role": st.just("assistant"),
        "reasoning_content": st.sampled_from([None, "hm"]),
        "refusal": st.sampled_from([None, "no"]),
        "tool_calls": st.sampled_from([None, [{"function": {"name": "f"}}]]),
    },
)
_CHOICE = st.fixed_dictionaries(
    {"delta": _DELTA},
    optional={
        "index": st.sampled_from([0, 0, 0, 1]),
        "finish_reason": st.sampled_from([None, None, "length"]),
        "token_ids": st.sampled_from([None, [1]]),
        "logprobs": st.sampled_from([None, {"content": [{}]}]),
    },
)
_CHUNK = st.fixed_dictionaries(
    {"choices": st.lists(_CHOICE, min_size=1, max_size=2)},
    optional={
        "object": st.sampled_from(["chat.completion.chunk", "chat.completion.chunk", "error"]),
        "usage": st.sampled_from([None, {"completion_tokens": 3}]),
        "error": st.sampled_from([None, None, "broken"]),
    },
)
_PLAIN = st.builds(lambda text: {"choices": [{"delta": {"content": text}}]}, _TEXT)


@given(st.lists(st.one_of(_PLAIN, _PLAIN, _PLAIN, _CHUNK), min_size=1, max_size=12), st.booleans())
def test_reading_many_events_at_once_changes_nothing(chunks, broken):
    """A comment in each piece sends all of them the long way."""
    lines = [json.dumps(chunk, ensure_ascii=False).encode() for chunk in chunks]
    lines[-1] = lines[-1][:-4] if broken else lines[-1]
    pieces = [(i * 10 * MS, b"data: " + line + b"\n\n") for i, line in enumerate(lines, 1)]
    pieces.append((10**9, b"data: [DONE]\n\n"))
    at_once, one_by_one = (
        read_answer(given, Record(request_id="r", sched_ns=0, sent_ns=0), choices=2)
        for given in (pieces, [(at_ns, b": no data\n" + piece) for at_ns, piece in pieces])
    )
    assert at_once == one_by_one
