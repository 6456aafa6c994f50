"""Answers as each server words them, and the choices of a request each with a record of its own."""

import json

import pytest

from penstock.meter.answer import read_answer
from penstock.meter.http import HttpTarget
from penstock.record.record import Outcome, Record
from tests.meter.scripted import serving

MS = 1_000_000


def read(*events, choices=1, done=True, error=None):
    """One event every 10 ms."""
    lines = [json.dumps(e).encode() for e in events] + ([b"[DONE]"] if done else [])
    record = Record(request_id="r", sched_ns=0, sent_ns=0, output_tokens_asked=9)
    pieces = [((i + 1) * 10 * MS, b"data: " + line + b"\n\n") for i, line in enumerate(lines)]
    return read_answer(pieces, record, error=error, choices=choices)


def whole(answer, **options):
    text = json.dumps(answer).encode()
    record = Record(request_id="r", sched_ns=0, sent_ns=0)
    pieces = [(10 * MS, text[:20]), (20 * MS, text[20:])]
    return read_answer(pieces, record, stream=False, **options)


def chat(content=None, finish=None, **delta):
    delta["content"] = content
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
NO_CHOICE = {"choices": [], "usage": USAGE}

# As seen on the wire (penstock, transformers, llama.cpp, vLLM) or in the servers' sources.
STREAMS = {
    "vLLM, usage on every event": [
        {**chat("", role="assistant"), "usage": {"prompt_tokens": 9, "completion_tokens": 0}},
        {**chat("a"), "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
        {**chat("bc"), "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
        {**chat("", "length"), "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
        NO_CHOICE,
    ],
    "vLLM, token ids": [
        {"choices": [{"text": "a", "token_ids": [5], "prompt_token_ids": [1, 2]}]},
        {"choices": [{"text": "bc", "token_ids": [6, 7], "finish_reason": "length"}]},
        NO_CHOICE,
    ],
    "llama.cpp, timings on every event": [
        chat(None, role="assistant"),
        {**chat("a"), "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 1}},
        {**chat("bc"), "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 3}},
        {**chat(None, "length"), "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": 3}},
    ],
    "SGLang, meta_info": [
        {"choices": [{"text": "a", "meta_info": {"completion_tokens": 1, "cached_tokens": 4}}]},
        {
            "choices": [
                {
                    "text": "bc",
                    "finish_reason": "length",
                    "meta_info": {"completion_tokens": 3, "cached_tokens": 4},
                }
            ]
        },
        {"choices": [], "usage": {**USAGE, "prompt_tokens_details": None}},
    ],
}


@pytest.mark.parametrize("name", STREAMS)
def test_tokens_by_event_in_each_dialect(name):
    answer = read(*STREAMS[name])
    (record,) = answer.records
    assert record.outcome is Outcome.FINISHED
    assert record.event_tokens == [1, 2]
    assert record.output_tokens == 3
    assert record.prompt_tokens == 9
    assert answer.texts == ["abc"]
    assert answer.notes == []


@pytest.mark.parametrize(
    ("usage", "more"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 4}}, {}),
        ({"prompt_cache_hit_tokens": 4}, {}),
        ({}, {"timings": {"cache_n": 4}}),
        ({"prompt_tokens_details": {"cached_tokens": None}}, {"timings": {"cache_n": 4}}),
    ],
)
def test_cached_tokens_in_each_dialect(usage, more):
    answer = read(chat("abc", "stop"), {"choices": [], "usage": {**USAGE, **usage}, **more})
    assert answer.records[0].cached_tokens == 4


def test_transformers_ends_without_done_and_with_usage_on_the_last_event():
    events = [chat("a"), chat("b"), chat("c"), {**chat(None, "length"), "usage": USAGE}]
    (record,) = read(*events, done=False).records
    assert record.outcome is Outcome.FINISHED
    assert (record.event_tokens, record.laid_by) == ([1, 1, 1], "evenly")


def test_what_is_said_is_told_from_what_is_thought_and_called():
    call = [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]
    events = [chat(reasoning_content="hm"), chat("42"), chat(tool_calls=call, finish="tool_calls")]
    answer = read(*events, NO_CHOICE)
    assert answer.texts == ["42"]
    assert len(answer.records[0].event_ns) == 3


@pytest.mark.parametrize("key", ["message", "text"])
def test_a_whole_answer_has_a_total_time_and_no_first_token(key):
    said = {"role": "assistant", "content": "a b c"} if key == "message" else "a b c"
    answer = whole({"choices": [{"index": 0, key: said, "finish_reason": "stop"}], "usage": USAGE})
    (record,) = answer.records
    assert record.outcome is Outcome.FINISHED
    assert record.first_ns is None
    assert record.last_ns == 20 * MS
    assert (record.event_ns, record.event_tokens) == ([20 * MS], [3])
    assert (record.prompt_tokens, record.words) == (9, 3)
    assert (answer.texts, answer.notes) == (["a b c"], [])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"message": "oom"}}, "server_error: oom"),
        ({"choices": []}, "truncated"),
        ([1], "malformed_event"),
    ],
)
def test_a_whole_answer_that_is_none(body, error):
    record = whole(body).records[0]
    assert record.outcome is Outcome.FAILED
    assert record.error.startswith(error)


def word(index, finish=None, total=None, **more):
    event = {"choices": [{"index": index, "text": f"{index} ", "finish_reason": finish, **more}]}
    return event if total is None else {**event, "usage": {"completion_tokens": total}}


def test_each_choice_has_a_record_and_the_prompt_is_counted_once():
    answer = read(
        word(0), word(1), word(1), word(0, "length"), word(1, "length"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}, choices=2,
    )  # fmt: skip
    first, second = answer.records
    assert (first.choice, second.choice) == (0, 1)
    assert second.request_id == first.request_id
    assert (second.sched_ns, second.sent_ns) == (first.sched_ns, first.sent_ns)
    assert first.event_ns == [10 * MS, 40 * MS]
    assert second.event_ns == [20 * MS, 30 * MS, 50 * MS]
    assert (first.output_tokens, second.output_tokens) == (2, 3)
    assert (first.prompt_tokens, second.prompt_tokens) == (9, None)
    assert answer.texts == ["0 0 ", "1 1 1 "]
    assert "divided" in answer.notes[0]


@pytest.mark.parametrize(
    "totals", [(1, 1, 3, 2, 4), (1, 2, 4, 5, 6)], ids=["of its choice", "of the request"]
)
def test_running_totals_are_of_the_choice_or_of_the_request(totals):
    # Choice 0 brings 1 and 1 tokens, choice 1 brings 1, 2 and 1.
    order = [(0, None), (1, None), (1, None), (0, "length"), (1, "length")]
    events = [word(i, f, total) for (i, f), total in zip(order, totals, strict=True)]
    answer = read(
        *events, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 6}}, choices=2
    )
    assert [r.event_tokens for r in answer.records] == [[1, 1], [1, 2, 1]]
    assert [r.output_tokens for r in answer.records] == [2, 4]
    assert answer.notes == []


def test_token_ids_divide_usage_among_choices_eos_included():
    events = [word(0, token_ids=[1, 2]), word(1, "length", token_ids=[3])]
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    answer = read(*events, end, usage, choices=2)
    assert [r.output_tokens for r in answer.records] == [3, 1]  # an EOS without an id
    assert [r.event_tokens for r in answer.records] == [[2], [1]]
    assert answer.notes == []


@pytest.mark.parametrize("timings", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_llama_cpp_counts_each_choice_apart(chat, timings):
    def said(index, tokens, finish=None):
        text = {"delta": {"content": "w "}} if chat else {"text": "w "}
        if finish:
            text = {"delta": {}} if chat else {"text": ""}
        event = {"choices": [{"index": index, "finish_reason": finish, **text}]}
        return {**event, "timings": {"predicted_n": tokens}} if timings else event

    def count(tokens):
        return {"usage": {"prompt_tokens": 9, "completion_tokens": tokens}}

    def end(index, tokens):
        last = said(index, tokens, "length")
        return [last, {"choices": [], **count(tokens)}] if chat else [{**last, **count(tokens)}]

    answer = read(
        said(1, 1),
        said(0, 1),
        said(1, 2),
        *end(1, 2),
        said(0, 2),
        said(0, 3),
        *end(0, 3),
        choices=2,
    )
    assert [r.output_tokens for r in answer.records] == [3, 2]
    assert [r.event_tokens for r in answer.records] == [[1, 1, 1], [1, 1]]
    assert [r.prompt_tokens for r in answer.records] == [9, None]


def test_a_choice_that_never_came_failed_alone():
    answer = read(word(0, "stop"), choices=2)
    assert [r.outcome for r in answer.records] == [Outcome.FINISHED, Outcome.FAILED]
    assert answer.records[1].error.startswith("empty_answer")
    assert answer.texts[1] == ""


def test_a_broken_connection_fails_every_choice():
    answer = read(word(0, "stop"), word(1), choices=2, done=False, error="reset: gone")
    assert [r.error for r in answer.records] == ["reset: gone"] * 2


@pytest.mark.parametrize(
    ("owner", "extras"),
    [
        ("llamacpp", {"ignore_eos": True, "timings_per_token": True}),
        ("sglang", {"ignore_eos": True}),
        ("vllm", {"ignore_eos": True, "min_tokens": 4}),
        ("somebody", {}),
    ],
)
async def test_each_server_is_asked_for_what_it_can_tell(owner, extras):
    async with serving(models=[{"id": "m", "owned_by": owner}]) as server:
        target = await HttpTarget.open(server.url)
        await target.close()
    body = server.bodies[-1]
    usual = {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}
    assert {key: body[key] for key in body.keys() - usual} == extras
    assert body["stream_options"]["include_usage"] is True
    assert body["stream_options"].get("continuous_usage_stats", False) is (
        owner in ("sglang", "vllm")
    )


@pytest.mark.parametrize(
    ("told", "context"),
    [
        ({"max_model_len": 99}, 99),
        ({"meta": {"n_ctx": 77, "n_ctx_train": 2048}}, 77),
        ({"meta": None}, None),
        ({"meta": "odd"}, None),
    ],
)
async def test_the_context_is_found_where_each_server_tells_it(told, context):
    async with serving(models=[{"id": "m", **told}]) as server:
        target = await HttpTarget.open(server.url)
        await target.close()
    assert target.info.context == context
