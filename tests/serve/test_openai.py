"""The official client of both APIs, streamed and not, over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.serve.conftest import Server
from tests.serve.fake_engine import EOS, FAIL

MODEL = "bytes"
COMMON: dict[str, Any] = {
    "n": 2,
    "max_tokens": 6,
    "temperature": 0.7,
    "top_p": 0.9,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"65": -100},
    "seed": 7,
    "stop": ["zzz"],
    "user": "someone",
}
OURS: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "min_tokens": 2,
    "stop_token_ids": [3],
    "include_stop_str_in_output": True,
    "priority": 3,
    "deadline_s": 30,
    "include_timings": True,
    "ignore_eos": True,
}
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a place",
        "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}},
    },
}
CALL = '<tool_call>{"name": "look", "arguments": {"at": 15}}</tool_call><|end|>'


@pytest.fixture(scope="module")
def client(fake: Server) -> Iterator[OpenAI]:
    host, port = fake.address
    with OpenAI(base_url=f"http://{host}:{port}/v1", api_key="any", max_retries=0) as client:
        yield client


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_completion_with_everything(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="abcd", logprobs=2, echo=True, best_of=2, **COMMON, extra_body=OURS
    )
    assert [choice.text for choice in answer.choices] == ["abcdabcdab", "abcdbcdabc"]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == list(choice.text)
        assert choice.logprobs.text_offset == list(range(10))
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs[0] is None
        assert all(len(top) == 2 for top in (choice.logprobs.top_logprobs or ())[1:])
        assert (choice.model_extra or {})["timings"]["queue_s"] == 0.25


def test_completion_streamed_equals_whole(client: OpenAI) -> None:
    ask: Any = {"model": MODEL, "prompt": ["naïve ", "日本"], "logprobs": 1, "echo": True}
    ask |= COMMON | {"extra_body": OURS}
    whole = client.completions.create(**ask)
    stream = client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    texts = dict.fromkeys(range(4), "")
    tokens: dict[int, list[str]] = {index: [] for index in range(4)}
    offsets: dict[int, list[int]] = {index: [] for index in range(4)}
    ends = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            assert choice.logprobs is not None
            tokens[choice.index] += choice.logprobs.tokens or []
            offsets[choice.index] += choice.logprobs.text_offset or []
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    assert chunk.usage == whole.usage
    for choice in whole.choices:
        assert choice.logprobs is not None
        assert texts[choice.index] == choice.text
        assert tokens[choice.index] == choice.logprobs.tokens
        assert offsets[choice.index] == choice.logprobs.text_offset
        assert ends[choice.index] == choice.finish_reason
    assert len(whole.choices) == 4


def test_chat_with_everything(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
        ],
        logprobs=True,
        top_logprobs=3,
        **COMMON,
        extra_body=OURS,
    )
    assert [choice.message.content for choice in answer.choices] == ["system", "ystem:"]
    for choice in answer.choices:
        assert choice.message.role == "assistant"
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert "".join(token.token for token in content) == choice.message.content
        assert bytes(b for token in content for b in token.bytes or ()).decode() == (
            choice.message.content
        )
        assert all(len(token.top_logprobs) == 3 for token in content)


def test_chat_streamed_equals_whole(client: OpenAI) -> None:
    ask: Any = {"model": MODEL, "messages": messages("a"), "logprobs": True}
    ask |= COMMON | {"extra_body": OURS}
    whole = client.chat.completions.create(**ask)
    stream = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    texts, logprobs = dict.fromkeys(range(2), ""), {0: [], 1: []}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            assert choice.logprobs is not None
            logprobs[choice.index] += choice.logprobs.content or []
    assert chunk.usage == whole.usage
    for choice in whole.choices:
        assert choice.logprobs is not None
        assert texts[choice.index] == choice.message.content
        assert logprobs[choice.index] == choice.logprobs.content


def test_max_completion_tokens(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=messages("a"), max_completion_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_prompt_logprobs(client: OpenAI) -> None:
    extra = {"prompt_logprobs": 2}
    answer = client.completions.create(
        model=MODEL, prompt=["ab", "xyz"], max_tokens=1, extra_body=extra
    )
    for choice, text in zip(answer.choices, ("ab", "xyz"), strict=True):
        first, *rest = (choice.model_extra or {})["prompt_logprobs"]
        assert first is None
        for place, character in zip(rest, text[1:], strict=True):
            own = place[str(ord(character))]
            assert own == {"logprob": -1.0, "rank": 1, "decoded_token": character}
            assert place[str(ord(character) + 1)]["rank"] == 2
    chat = client.chat.completions.create(
        model=MODEL, messages=messages("a"), max_tokens=1, extra_body=extra
    )
    assert chat.usage is not None
    assert len((chat.model_extra or {})["prompt_logprobs"]) == chat.usage.prompt_tokens


def test_scoring_a_prompt_alone(client: OpenAI) -> None:
    """As evaluation harnesses ask: no output, log probabilities of the prompt."""
    answer = client.completions.create(
        model=MODEL, prompt=[[97, 98, 99]], max_tokens=0, echo=True, logprobs=1
    )
    (choice,) = answer.choices
    assert choice.text == "abc"
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [None, -1.0, -1.0]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_logprobs_of_half_characters_and_special_tokens(client: OpenAI) -> None:
    prompt = [*"é".encode(), EOS]
    answer = client.completions.create(model=MODEL, prompt=[prompt], logprobs=0, max_tokens=9)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("é", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [r"\xc3", r"\xa9", "<|end|>"]
    assert choice.logprobs.text_offset == [0, 0, 1]
    assert choice.logprobs.top_logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_stops_leaves_the_others(client: OpenAI, fake: Server, stream: bool) -> None:
    """Choice 1 of the fake engine begins one token later, so it stops one token earlier."""
    ask: Any = {"model": MODEL, "prompt": "abcdefgh", "n": 3, "max_tokens": 40, "stop": "gha"}
    ask["extra_body"] = {"include_timings": True}
    texts, ends, timings = dict.fromkeys(range(3), ""), {}, {}
    answers = client.completions.create(**ask, stream=stream)
    for answer in answers if stream else [answers]:
        for choice in answer.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
                timings[choice.index] = (choice.model_extra or {})["timings"]
    assert texts == {0: "abcdef", 1: "bcdef", 2: "cdef"}
    assert set(ends.values()) == {"stop"}
    # The engine ends them when it is told to, and says then how long they took.
    assert [timing["queue_s"] for timing in timings.values()] == [0.25] * 3
    fake.eventually(fake.at_rest, "at rest")


def test_usage_counts_to_the_end_of_a_stop_string(client: OpenAI) -> None:
    for _ in range(5):  # however many tokens came at once
        answer = client.completions.create(
            model=MODEL, prompt="abcdefgh", max_tokens=100, stop="cd", logprobs=0
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        assert answer.choices[0].logprobs is not None
        assert answer.choices[0].logprobs.tokens == list("abcd")


def test_json_schema_from_a_pydantic_model(client: OpenAI) -> None:
    from pydantic import BaseModel

    class Place(BaseModel):
        name: str

    # The fake engine follows no grammar; what matters here is that it is taken.
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=MODEL, messages=messages("a"), response_format=Place, max_tokens=3
        )


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(client: OpenAI, stream: bool) -> None:
    """The fake engine repeats its prompt: the tools, then our own example of a call."""
    ask: Any = {"model": MODEL, "messages": messages(CALL), "tools": [LOOK]}
    if stream:
        with client.chat.completions.stream(**ask) as events:
            (choice,) = events.get_final_completion().choices
    else:
        (choice,) = client.chat.completions.create(**ask).choices
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "look"
    assert json.loads(call.function.arguments) == {"at": 15}
    assert call.id
    assert choice.message.content is not None
    assert choice.message.content.startswith('[{"type": "function"')
    assert choice.finish_reason == "tool_calls"


def test_a_conversation_with_calls_goes_on(client: OpenAI) -> None:
    call: Any = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "user", "content": "u"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
        ],
        max_tokens=32,
    )
    assert answer.choices[0].message.content == "user: u\nassistant: \ntool: seen\nu"[:32]


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="a", temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model=MODEL, prompt=[FAIL])
    with pytest.raises(openai.APIError, match="told to fail"):
        list(client.completions.create(model=MODEL, prompt=[FAIL], stream=True))
    with pytest.raises(openai.APIError, match=r"not finished after 0\.05 s"):
        list(
            client.completions.create(
                model=MODEL,
                prompt="a",
                max_tokens=2000,
                stream=True,
                extra_body={"deadline_s": 0.05},
            )
        )
    with pytest.raises(openai.InternalServerError) as late:
        client.completions.create(
            model=MODEL, prompt="a", max_tokens=2000, extra_body={"deadline_s": 0.05}
        )
    assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")


def test_one_prompt_of_several_is_refused(client: OpenAI, fake: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="3000 tokens"):
        client.completions.create(model=MODEL, prompt=["a", "b" * 3000, "c"], max_tokens=2000)
    fake.eventually(fake.at_rest, "the others are given up")


def test_request_ids(client: OpenAI) -> None:
    create = client.completions.with_raw_response.create
    mine = create(model=MODEL, prompt="a", extra_headers={"X-Request-Id": "trace-7"})
    assert mine.headers["x-request-id"] == "trace-7"
    assert mine.parse().id == "cmpl-trace-7"
    for unfit in ("with space", "x" * 129, ""):
        ours = create(model=MODEL, prompt="a", extra_headers={"X-Request-Id": unfit})
        assert len(ours.headers["x-request-id"]) == 32
        assert ours.parse().id == f"cmpl-{ours.headers['x-request-id']}"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="", extra_headers={"X-Request-Id": "r"})
    assert refused.value.request_id == "r"


def test_two_at_once_may_not_share_an_id(client: OpenAI) -> None:
    headers = {"X-Request-Id": "twin"}
    ask: Any = {"model": MODEL, "prompt": "a", "extra_headers": headers}
    with client.completions.create(**ask, max_tokens=2000, stream=True) as first:
        assert next(iter(first)).id == "cmpl-twin"
        assert client.completions.create(**ask, max_tokens=1).id != "cmpl-twin"


def test_tokenize_and_back(fake: Server) -> None:
    answer = fake.post("/tokenize", {"prompt": "né", "return_token_strs": True})
    assert answer.body == {
        "count": 3,
        "max_model_len": 2048,
        "tokens": [110, 195, 169],
        "token_strs": ["n", "Ã", "©"],
    }
    chat = fake.post("/tokenize", {"messages": messages("a"), "tools": [LOOK]}).body
    assert bytes(chat["tokens"]).decode().endswith("user: a\n")
    back = fake.post("/detokenize", {"tokens": [110, 195, 169, EOS]})
    assert back.body == {"prompt": "né"}
    for wrong in ({}, {"prompt": "a", "messages": messages("a")}, {"prompt": "a", "tools": [LOOK]}):
        assert fake.post("/tokenize", wrong).status == 400
    assert fake.post("/detokenize", {"tokens": [9999]}).body["error"]["param"] == "tokens"


def test_version(fake: Server) -> None:
    from penstock import __version__

    assert fake.get("/version").body == {"version": __version__}
