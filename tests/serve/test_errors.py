"""What is wrong is said by name, in OpenAI's shape, and nothing is accepted and ignored."""

from __future__ import annotations

import contextlib
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from penstock.serve.fields import NOT_SERVED
from penstock.serve.options import ServeOptions
from penstock.serve.protocol import ChatBody, CompletionBody
from tests.serve import http_client
from tests.serve.conftest import Server, StartFake

MAX_BODY = ServeOptions().max_body
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    TEXT: {"prompt": "hello", "max_tokens": 2},
    CHAT: {"messages": HELLO, "max_tokens": 2},
}

BEAM = {"use_beam_search": True}
FORMAT = {"response_format": {"type": "json_object"}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "parameters": {}}}
BAD_SCHEMA = {"parameters": {"no-such-keyword": 1}}
STRICT = {"type": "function", "function": TOOL["function"] | BAD_SCHEMA | {"strict": True}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


# path, what is wrong, the parameter named, the code, and a part of the message.
WRONG = [
    (TEXT, {"prompt": None}, "prompt", "missing_parameter", "required"),
    (TEXT, {"prompt": ""}, "prompt", "invalid_value", "at least 1 character"),
    (TEXT, {"prompt": []}, "prompt", "invalid_value", "at least 1 item"),
    (TEXT, {"prompt": [[]]}, "prompt", "invalid_value", "at least 1 item"),
    (TEXT, {"prompt": ["a"] * 65}, "prompt", "invalid_value", "at most 64"),
    (TEXT, {"prompt": ["a"] * 41, "n": 25}, "n", "invalid_value", "1025 choices; 1024 is the most"),
    (TEXT, {"prompt": [1, "a"]}, "prompt", "invalid_value", "valid"),
    (TEXT, {"prompt": {"a": 1}}, "prompt", "invalid_value", "valid"),
    (TEXT, {"prompt": [5, 9999]}, "prompt", "invalid_value", "token id 9999"),
    (TEXT, {"prompt": [-1]}, "prompt", "invalid_value", "greater than or equal to 0"),
    (TEXT, {"prompt": [10**30]}, "prompt", "invalid_value", "less than or equal"),
    (TEXT, {"prompt": "x" * 3000}, "prompt", "invalid_value", "3000 tokens; this model holds 2048"),
    (TEXT, {"max_tokens": 0}, "max_tokens", "invalid_value", "echo"),
    (TEXT, {"max_tokens": -1}, "max_tokens", "invalid_value", "greater than or equal to 0"),
    (CHAT, {"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1"),
    (TEXT, {"max_tokens": 10**30}, "max_tokens", "invalid_value", "less than or equal"),
    (TEXT, {"max_tokens": "5"}, "max_tokens", "invalid_value", "integer"),
    (TEXT, {"max_tokens": 2.5}, "max_tokens", "invalid_value", "integer"),
    (TEXT, {"max_tokens": True}, "max_tokens", "invalid_value", "integer"),
    (TEXT, {"temperature": -0.1}, "temperature", "invalid_value", "greater than or equal to 0"),
    (TEXT, {"temperature": "hot"}, "temperature", "invalid_value", "number"),
    (TEXT, {"top_p": 0}, "top_p", "invalid_value", "greater than 0"),
    (TEXT, {"top_p": 1.5}, "top_p", "invalid_value", "less than or equal to 1"),
    (TEXT, {"top_k": -2}, "top_k", "invalid_value", "greater than or equal to -1"),
    (TEXT, {"seed": 2**63}, "seed", "invalid_value", "less than or equal"),
    (TEXT, {"stop": ["a"] * 5}, "stop", "invalid_value", "at most 4"),
    (TEXT, {"stop": "a" * 1001}, "stop", "invalid_value", "at most 1000 characters"),
    (TEXT, {"stop": ""}, "stop", "invalid_value", "at least 1 character"),
    (TEXT, {"stop_token_ids": [9999]}, "stop_token_ids", "invalid_value", "token id 9999"),
    (TEXT, {"stop_token_ids": [10**30]}, "stop_token_ids.0", "invalid_value", "less than or equal"),
    (TEXT, {"stream": "yes"}, "stream", "invalid_value", "boolean"),
    (
        TEXT,
        {"stream_options": {"include_usage": True}},
        "stream_options",
        "invalid_value",
        "stream",
    ),
    (TEXT, {"maxtokens": 5}, "maxtokens", "unknown_parameter", "Unknown parameter: maxtokens"),
    (TEXT, {"messages": HELLO}, "messages", "unknown_parameter", "Unknown parameter: messages"),
    (
        TEXT,
        {"stream": True, "stream_options": {"usage": True}},
        "stream_options.usage",
        "unknown_parameter",
        "Unknown parameter: stream_options.usage",
    ),
    (TEXT, {"store": True}, "store", "unsupported_parameter", "or set it to false"),
    (TEXT, {"suffix": "x"}, "suffix", "unsupported_parameter", 'or set it to ""'),
    (TEXT, {"guided_regex": "a"}, "guided_regex", "unsupported_parameter", "structured_outputs"),
    (TEXT, {"n": 0}, "n", "invalid_value", "greater than or equal to 1"),
    (TEXT, {"n": 1025}, "n", "invalid_value", "less than or equal to 1024"),
    (TEXT, {"n": 3, "best_of": 2}, "best_of", "invalid_value", "less than n=3"),
    (TEXT, {"best_of": 2, "stream": True}, "best_of", "invalid_value", "streamed"),
    (TEXT, {"min_tokens": 3}, "min_tokens", "invalid_value", "exceeds max_tokens=2"),
    (TEXT, {"min_p": 1.5}, "min_p", "invalid_value", "less than or equal to 1"),
    (TEXT, {"repetition_penalty": 0}, "repetition_penalty", "invalid_value", "greater than 0"),
    (TEXT, {"presence_penalty": 2.5}, "presence_penalty", "invalid_value", "equal to 2"),
    (TEXT, {"logit_bias": {"a": 1}}, "logit_bias", "invalid_value", "pattern"),
    (TEXT, {"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value", "equal to 100"),
    (TEXT, {"logit_bias": {"9999": 1}}, "logit_bias", "invalid_value", "token id 9999"),
    (TEXT, {"logprobs": 65}, "logprobs", "invalid_value", "less than or equal to 64"),
    (TEXT, {"logprobs": True}, "logprobs", "invalid_value", "integer"),
    (TEXT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "invalid_value", "stream"),
    (TEXT, {"priority": "high"}, "priority", "invalid_value", "integer"),
    (TEXT, {"deadline_s": 0}, "deadline_s", "invalid_value", "greater than 0"),
    (TEXT, {"length_penalty": 2}, "length_penalty", "invalid_value", "use_beam_search"),
    (TEXT, {"early_stopping": True}, "early_stopping", "invalid_value", "use_beam_search"),
    (TEXT, BEAM | {"temperature": 0.5}, "temperature", "invalid_value", "no meaning in beam"),
    (TEXT, BEAM | {"stop": "a"}, "stop", "invalid_value", "stop_token_ids"),
    (TEXT, BEAM | {"top_p": 0.5}, "top_p", "invalid_value", "no meaning in beam"),
    (TEXT, BEAM | {"logprobs": 1}, "logprobs", "invalid_value", "no meaning in beam"),
    (
        TEXT,
        FORMAT | {"structured_outputs": {"regex": "a"}},
        "structured_outputs",
        "invalid_value",
        "give one",
    ),
    (
        TEXT,
        {"response_format": {"type": "xml"}},
        "response_format.type",
        "invalid_value",
        "'json_object'",
    ),
    (
        TEXT,
        {"response_format": {"type": "json_schema"}},
        "response_format",
        "invalid_value",
        "together",
    ),
    (
        TEXT,
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "?"}},
            }
        },
        "response_format",
        "invalid_value",
        "",
    ),
    (TEXT, {"structured_outputs": {}}, "structured_outputs", "invalid_value", "exactly one"),
    (
        TEXT,
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        "structured_outputs",
        "invalid_value",
        "one",
    ),
    (TEXT, {"structured_outputs": {"regex": "(a"}}, "structured_outputs", "invalid_value", ""),
    (
        TEXT,
        {"structured_outputs": {"grammar": "start: nothing"}},
        "structured_outputs",
        "invalid_value",
        "",
    ),
    (TEXT, {"structured_outputs": {"json": "{"}}, "structured_outputs", "invalid_value", ""),
    (
        TEXT,
        {"structured_outputs": {"choice": []}},
        "structured_outputs.choice",
        "invalid_value",
        "at least 1",
    ),
    (CHAT, {"messages": []}, "messages", "invalid_value", "at least 1"),
    (CHAT, {"messages": "hi"}, "messages", "invalid_value", "list"),
    (
        CHAT,
        {"messages": [{"role": "wizard", "content": "x"}]},
        "messages.0.role",
        "invalid_value",
        "'user'",
    ),
    (CHAT, {"messages": [{"role": "user"}]}, "messages.0", "invalid_value", "needs content"),
    (
        CHAT,
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages.0",
        "invalid_value",
        "tool_call_id",
    ),
    (
        CHAT,
        {"messages": [HELLO[0] | {"tool_calls": []}]},
        "messages.0",
        "invalid_value",
        "assistant",
    ),
    (CHAT, {"messages": [HELLO[0], 5]}, "messages.1", "invalid_value", "object"),
    (CHAT, {"prompt": "x"}, "prompt", "unknown_parameter", "Unknown parameter: prompt"),
    (CHAT, {"logprobs": 1}, "logprobs", "invalid_value", "boolean"),
    (CHAT, {"top_logprobs": 1}, "top_logprobs", "invalid_value", "logprobs=true"),
    (CHAT, {"best_of": 2}, "best_of", "unknown_parameter", "best_of"),
    (CHAT, {"tools": [{}]}, "tools.0.type", "missing_parameter", "required"),
    (CHAT, {"tools": [TOOL, TOOL]}, "tools", "invalid_value", "same name"),
    (CHAT, {"tool_choice": "required"}, "tool_choice", "invalid_value", "needs tools"),
    (
        CHAT,
        {"tools": [TOOL], "tool_choice": named("other")},
        "tool_choice",
        "invalid_value",
        "none of the tools",
    ),
    (
        CHAT,
        {"tools": [TOOL], "tool_choice": "required"} | FORMAT,
        "tool_choice",
        "invalid_value",
        "neither",
    ),
    (CHAT, {"tools": [STRICT]}, "tools", "invalid_value", "no-such-keyword"),
    (CHAT, {"functions": [{}]}, "functions", "unsupported_parameter", "Use tools."),
    (
        CHAT,
        {"chat_template_kwargs": {"tools": 1}},
        "chat_template_kwargs",
        "invalid_value",
        "tools",
    ),
    (CHAT, {"chat_template_kwargs": {"hue": 1}}, "chat_template_kwargs", "invalid_value", "hue"),
    (CHAT, {"max_completion_tokens": 7}, "max_completion_tokens", "invalid_value", "differ"),
    (CHAT, {"audio": {}}, "audio", "unsupported_parameter", "Leave it out."),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content",
        "invalid_value",
        "'text'",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "x" * 3000}]},
        "messages",
        "invalid_value",
        "this model holds 2048",
    ),
]


@pytest.mark.parametrize(
    ("path", "wrong", "param", "code", "part"), WRONG, ids=[str(w[1])[:40] for w in WRONG]
)
def test_refused_by_name(
    fake: Server, path: str, wrong: dict[str, Any], param: str, code: str, part: str
) -> None:
    answer = fake.post(path, BODIES[path] | wrong)
    assert answer.status == 400, answer.body
    error = answer.body["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)
    assert part in error["message"]


SERVED = {TEXT: CompletionBody.model_fields, CHAT: ChatBody.model_fields}


@pytest.mark.parametrize("path", BODIES)
def test_values_that_ask_for_nothing_pass(fake: Server, path: str) -> None:
    for name in NOT_SERVED.keys() - SERVED[path].keys():
        for value in (None, *NOT_SERVED[name]):
            assert fake.post(path, BODIES[path] | {name: value}).status == 200, (name, value)


@pytest.mark.parametrize("path", BODIES)
def test_null_leaves_out(fake: Server, path: str) -> None:
    for name in SERVED[path].keys() - {"prompt", "messages"}:
        assert fake.post(path, BODIES[path] | {name: None}).status == 200, name


def test_served_and_not_served_are_apart() -> None:
    # The one parameter that one API serves and the other knows and does not.
    assert NOT_SERVED.keys() & CompletionBody.model_fields == set()
    assert NOT_SERVED.keys() & ChatBody.model_fields == {"chat_template_kwargs"}


DEEP = b'{"not":' * 500 + b"{}" + b"}" * 500


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "invalid_value"),
        (b"[]", "invalid_value"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"prompt": "\\ud800"}', "invalid_value"),
        (b'{"prompt": "a", "temperature": NaN}', "invalid_value"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", None),
        (b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}", None),
        (b'{"prompt": "a", "structured_outputs": {"json": ' + DEEP + b"}}", "invalid_value"),
    ],
)
def test_bodies_that_are_no_request(fake: Server, body: bytes, code: str | None) -> None:
    answer = fake.post(TEXT, body)
    assert answer.status == 400, answer.body
    assert answer.body["error"]["code"] == code


@pytest.mark.parametrize("size", [MAX_BODY + (1 << 20), 20 * MAX_BODY])
def test_a_huge_body_is_refused_before_it_is_in_memory(fake: Server, size: int) -> None:
    memory = psutil.Process(fake.process.pid).memory_info().rss
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(fake.address, timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it may hang up on us
            for _ in range(size >> 20):
                connection.sendall(b" " * (1 << 20))
                if select.select([connection], [], [], 0)[0]:
                    break
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"16,777,216 bytes" in answer
    grown = psutil.Process(fake.process.pid).memory_info().rss - memory
    assert grown < 3 * MAX_BODY
    assert fake.post(TEXT, BODIES[TEXT]).status == 200


def test_other_errors_have_the_same_shape(fake: Server) -> None:
    model = fake.post(TEXT, BODIES[TEXT] | {"model": "gpt-5"})
    assert (model.status, model.body["error"]["code"]) == (404, "model_not_found")
    assert fake.get("/v1/nothing").status == 404
    assert "message" in fake.get("/v1/nothing").body["error"]
    assert fake.get(TEXT).status == 405


def test_a_request_that_fails_alone_is_500(fake: Server) -> None:
    from tests.serve.fake_engine import FAIL

    answer = fake.post(TEXT, {"prompt": [65, FAIL]})
    assert answer.status == 500
    assert answer.body["error"]["message"] == "told to fail"
    (event,) = fake.events(TEXT, {"prompt": [65, FAIL]})
    assert event["error"]["message"] == "told to fail"
    assert fake.post(TEXT, BODIES[TEXT]).status == 200


def test_full_queue_is_429_with_retry_after(start_fake: StartFake) -> None:
    engine = {"max_running": 1, "max_waiting": 2}
    with start_fake(engine=engine, step_s=0.005) as server:
        body = {"prompt": "abc", "max_tokens": 100}
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.post(TEXT, body), range(12)))
        by_status = {status: [a for a in answers if a.status == status] for status in (200, 429)}
        assert len(by_status[200]) + len(by_status[429]) == 12
        assert len(by_status[200]) >= 2
        assert by_status[429]
        for answer in by_status[429]:
            assert answer.headers["retry-after"] == "3"
            assert answer.body["error"]["code"] == "queue_full"
        assert server.metric('requests_total{outcome="queue_full"}') == len(by_status[429])
        # A stream is refused with the same status, not with an event.
        long = {"prompt": "abc", "max_tokens": 2000}
        held = [http_client.post_and_hold(server.address, TEXT, long)]
        server.eventually(lambda: server.metric("num_requests_running") == 1, "one runs")
        held += [http_client.post_and_hold(server.address, TEXT, long) for _ in range(2)]
        server.eventually(lambda: server.metric("num_requests_waiting") == 2, "two wait")
        refused = server.post(TEXT, body | {"stream": True})
        assert refused.status == 429
        for connection in held:
            connection.close()
        server.eventually(server.at_rest, "at rest after hanging up")
