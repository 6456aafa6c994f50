"""docs/api.md is what the server does: each parameter of each table, tried on a server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools import api_docs

from penstock.engine.request import MAX_CHOICES
from penstock.serve.fields import NOT_SERVED
from penstock.serve.protocol import ChatBody, CompletionBody
from tests.serve.conftest import Server, StartFake
from tests.serve.fake_engine import EOS, SHOW

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
TABLES = {TEXT: "completions", CHAT: "chat"}
FIELDS = {TEXT: CompletionBody.model_fields, CHAT: ChatBody.model_fields}
LOOK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}},
}
TOOLS = {"tools": [LOOK]}
BEAM = {"use_beam_search": True}


@pytest.fixture(scope="module")
def fake(start_fake: StartFake) -> Iterator[Server]:
    """As quick as it can: what it is asked to show takes a thousand steps."""
    with start_fake(step_s=0) as server:
        yield server


@pytest.fixture(scope="module")
def plain(fake: Server) -> dict[str, dict[str, Any]]:
    """What reaches the engine when nothing is asked for."""
    return {path: shown(ask(fake, path, SHOW)) for path in TABLES}


def body(path: str, text: str, **more: Any) -> dict[str, Any]:
    asked = {"prompt": text} if path == TEXT else {"messages": [{"role": "user", "content": text}]}
    return asked | {"max_tokens": 1000} | more


def text_of(choice: dict[str, Any]) -> str:
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


def ask(server: Server, path: str, text: str, **more: Any) -> dict[str, Any]:
    answer = server.post(path, body(path, text, **more))
    assert answer.status == 200, answer.body
    reply: dict[str, Any] = answer.body
    return reply


def grammar(kind: str, text: str) -> dict[str, Any]:
    return {"grammar": {"kind": kind, "text": text}}


# What is asked, and which of the engine's parameters then say what.
REACHES_THE_ENGINE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 900}, {"max_tokens": 900}),
    "min_tokens": ({"min_tokens": 3}, {"min_tokens": 3}),
    "n": ({"n": 2}, {"n": 2}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "top_k": ({"top_k": 5}, {"top_k": 5}),
    "min_p": ({"min_p": 0.25}, {"min_p": 0.25}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    "presence_penalty": ({"presence_penalty": -0.5}, {"presence_penalty": -0.5}),
    "frequency_penalty": ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    "logit_bias": ({"logit_bias": {"65": -100}}, {"logit_bias": {"65": -100.0}}),
    "seed": ({"seed": -7}, {"seed": -7}),
    "stop_token_ids": ({"stop_token_ids": [7, 8]}, {"stop_token_ids": [7, 8]}),
    "ignore_eos": ({"ignore_eos": True}, {"ignore_eos": True}),
    "prompt_logprobs": ({"prompt_logprobs": 3}, {"prompt_logprobs": 3}),
    "use_beam_search": (
        BEAM | {"n": 2},
        {"n": 2, "beam": {"width": 2, "length_penalty": 1.0, "early_stopping": False}},
    ),
    "length_penalty": (
        BEAM | {"length_penalty": 2},
        {"beam": {"width": 1, "length_penalty": 2.0, "early_stopping": False}},
    ),
    "early_stopping": (
        BEAM | {"early_stopping": "never"},
        {"beam": {"width": 1, "length_penalty": 1.0, "early_stopping": "never"}},
    ),
    "response_format": (
        {"response_format": {"type": "json_object"}},
        grammar("json_schema", '{"type":"object"}'),
    ),
    "structured_outputs": (
        {"structured_outputs": {"choice": ["a.b", "c|d"]}},
        grammar("regex", r"a\.b|c\|d"),
    ),
    "max_completion_tokens": (
        {"max_completion_tokens": 800, "max_tokens": None},
        {"max_tokens": 800},
    ),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 4}, {"logprobs": 4}),
    "priority": ({"priority": -5}, {}),  # beside the sampling parameters
}


def cut(server: Server, path: str) -> None:
    for included, shown in ((False, "one two "), (True, "one two thr")):
        more = {"stop": ["thr"], "include_stop_str_in_output": included}
        (choice,) = ask(server, path, "one two three ", **more)["choices"]
        assert text_of(choice).endswith(shown)
        assert choice["finish_reason"] == "stop"


def in_time(server: Server, path: str) -> None:
    assert ask(server, path, "a", deadline_s=60, max_tokens=2)
    late = server.post(path, body(path, "a", deadline_s=0.05, n=64))
    assert (late.status, late.body["error"]["code"]) == (504, "deadline_exceeded")
    assert "0.05 s" in late.body["error"]["message"]


def streamed(server: Server, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, usage, done = server.events(
        path, body(path, "abc", max_tokens=5, stream_options=options)
    )
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"]["completion_tokens"] <= 5 for chunk in chunks)


def timed(server: Server, path: str) -> None:
    (choice,) = ask(server, path, "a", max_tokens=2, include_timings=True)["choices"]
    assert choice["timings"] == {
        "queue_s": 0.25,
        "prefill_s": 0.5,
        "decode_s": 0.125,
        "preemptions": 3,
        "cached_tokens": 0,
    }
    assert "timings" not in ask(server, path, "a", max_tokens=2)["choices"][0]


def echoed(server: Server, path: str) -> None:
    (choice,) = ask(server, path, "naïve ", max_tokens=7, echo=True)["choices"]
    assert text_of(choice) == "naïve naïve "


def best(server: Server, path: str) -> None:
    """The fake engine's later choices are likelier."""
    answer = ask(server, path, "abc", max_tokens=3, best_of=3, n=2)
    assert [text_of(choice) for choice in answer["choices"]] == ["cab", "bca"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 9


def with_logprobs(server: Server, path: str) -> None:
    more = {"logprobs": 2} if path == TEXT else {"logprobs": True, "top_logprobs": 2}
    (choice,) = ask(server, path, "ab", max_tokens=2, **more)["choices"]
    told = choice["logprobs"]
    tokens = told["tokens"] if path == TEXT else [token["token"] for token in told["content"]]
    assert "".join(tokens) == text_of(choice)


def told(server: Server, **more: Any) -> str:
    """What the model is told before the messages: here, the tools."""
    answer = ask(server, CHAT, "a", max_tokens=300, **more)
    return text_of(answer["choices"][0]).partition("user: a")[0]


def form_of_calls(server: Server, **more: Any) -> str | None:
    grammar_ = shown(ask(server, CHAT, SHOW, **more, max_tokens=1500))["params"]["grammar"]
    return grammar_ and grammar_["text"]


def offered(server: Server, path: str) -> None:
    assert told(server, **TOOLS).startswith(json.dumps([LOOK]))
    assert told(server, **TOOLS, tool_choice="none") == ""
    assert form_of_calls(server, **TOOLS) is None


def forced(server: Server, path: str) -> None:
    other = {"type": "function", "function": {"name": "listen"}}
    both = {"tools": [LOOK, other]}
    required = form_of_calls(server, **both, tool_choice="required")
    assert required is not None
    assert "look" in required
    assert "listen" in required
    named = form_of_calls(server, **both, tool_choice=other)
    assert named is not None
    assert "look" not in named
    assert "listen" in named


def one_call(server: Server, path: str) -> None:
    several, single = (
        form_of_calls(server, **TOOLS, tool_choice="required", parallel_tool_calls=parallel)
        for parallel in (True, False)
    )
    assert several != single


def moody(server: Server, path: str) -> None:
    answer = ask(server, path, "a", max_tokens=30, chat_template_kwargs={"mood": "glad"})
    assert "mood: glad" in text_of(answer["choices"][0])


def of_model(server: Server, path: str) -> None:
    assert ask(server, path, "a", model="bytes", max_tokens=1)["model"] == "bytes"
    assert server.post(path, body(path, "a", model="other")).status == 404


def said(server: Server, path: str) -> None:
    prompt = text_of(ask(server, path, "sea", max_tokens=3 if path == TEXT else 10)["choices"][0])
    assert prompt == ("sea" if path == TEXT else "user: sea\n")


def whole(server: Server, path: str) -> None:
    """Where nothing shortens prompts it can only be asked not to; see test_shortening."""
    refused = server.post(path, body(path, "a", compress_prompt=True))
    assert (refused.status, refused.body["error"]["param"]) == (400, "compress_prompt")
    assert ask(server, path, "a", max_tokens=1, compress_prompt=False)


def user(server: Server, path: str) -> None:
    one, other = (ask(server, path, "a", max_tokens=3, user=name) for name in ("x", "y"))
    assert one["choices"] == other["choices"]


SHOWS_IN_THE_ANSWER: dict[str, Callable[[Server, str], None]] = {
    "model": of_model,
    "prompt": said,
    "messages": said,
    "stop": cut,
    "include_stop_str_in_output": cut,
    "deadline_s": in_time,
    "include_timings": timed,
    "stream": streamed,
    "stream_options": streamed,
    "user": user,
    "compress_prompt": whole,
    "best_of": best,
    "echo": echoed,
    "logprobs": with_logprobs,
    "tools": offered,
    "tool_choice": forced,
    "parallel_tool_calls": one_call,
    "chat_template_kwargs": moody,
}


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    """The request as the engine got it, from an answer to `SHOW`."""
    message = answer["choices"][0]
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text_of(message))[0]
    return found


def table(name: str) -> list[str]:
    """The parameters in a table of docs/api.md."""
    page = api_docs.PAGE.read_text()
    (found,) = re.findall(rf"<!-- begin {name} -->(.*?)<!-- end {name} -->", page, re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", found, re.MULTILINE)


def test_the_page_is_current() -> None:
    page = api_docs.PAGE.read_text()
    assert api_docs.filled(page) == page, "run python tools/api_docs.py"


@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_as_many_choices_as_may_be_asked_for_come_whole_and_streamed(
    fake: Server, path: str
) -> None:
    asked = {"n": MAX_CHOICES, "max_tokens": 2}
    whole = ask(fake, path, "ab", **asked)
    assert [choice["index"] for choice in whole["choices"]] == list(range(MAX_CHOICES))
    assert whole["usage"]["completion_tokens"] == 2 * MAX_CHOICES
    *chunks, done = fake.events(path, body(path, "ab", **asked))
    assert done == "[DONE]"
    ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ends) == list(range(MAX_CHOICES))


def test_every_parameter_says_what_it_does() -> None:
    for body_ in (CompletionBody, ChatBody):
        assert [name for name, field in body_.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("path", "name"), [(path, n) for path, t in TABLES.items() for n in table(t)]
)
def test_served_and_seen(
    fake: Server, plain: dict[str, dict[str, Any]], path: str, name: str
) -> None:
    if name in REACHES_THE_ENGINE:
        more, expected = REACHES_THE_ENGINE[name]
        seen = shown(ask(fake, path, SHOW, **more))
        for key, value in expected.items():
            assert seen["params"][key] == value
        assert seen["priority"] == more.get("priority", 0)
        # Left out, it is something else: the sample shows the parameter at work.
        assert plain[path] != seen
    else:
        SHOWS_IN_THE_ANSWER[name](fake, path)


@pytest.mark.parametrize("path", TABLES)
def test_the_tables_hold_every_parameter(path: str) -> None:
    assert set(table(TABLES[path])) == FIELDS[path].keys()
    assert set(table("not served")) == NOT_SERVED.keys()


@pytest.mark.parametrize("path", TABLES)
def test_not_served_is_refused_by_name(fake: Server, path: str) -> None:
    for name in NOT_SERVED.keys() - FIELDS[path].keys():
        answer = fake.post(path, body(path, "a", **{name: "ask for something"}))
        assert answer.status == 400
        assert answer.body["error"]["param"] == name
        assert answer.body["error"]["code"] == "unsupported_parameter"


def test_min_tokens_holds_off_every_end(fake: Server) -> None:
    ask_ = {"prompt": [97, 98, EOS], "max_tokens": 8}
    assert fake.post(TEXT, ask_).body["usage"]["completion_tokens"] == 3
    assert fake.post(TEXT, ask_ | {"min_tokens": 4}).body["usage"]["completion_tokens"] == 6
    stop = {"prompt": "abcd", "max_tokens": 9, "stop": "b"}
    assert fake.post(TEXT, stop).body["choices"][0]["text"] == "a"
    assert fake.post(TEXT, stop | {"min_tokens": 2}).body["choices"][0]["text"] == "abcda"
