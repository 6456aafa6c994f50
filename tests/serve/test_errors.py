"""What is wrong is said by name, in OpenAI's shape, and nothing is accepted and ignored."""

from __future__ import annotations

import contextlib
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from penstock.serve.connection import MAX_BODY
from penstock.serve.protocol import NOT_SERVED, ChatBody, CompletionBody
from tests.serve import http_client
from tests.serve.conftest import Server, StartFake

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    TEXT: {"prompt": "hello", "max_tokens": 2},
    CHAT: {"messages": HELLO, "max_tokens": 2},
}

# path, what is wrong, the parameter named, the code, and a part of the message.
WRONG = [
    (TEXT, {"prompt": None}, "prompt", "missing_parameter", "required"),
    (TEXT, {"prompt": ""}, "prompt", "invalid_value", "empty"),
    (TEXT, {"prompt": []}, "prompt", "invalid_value", "empty"),
    (TEXT, {"prompt": [[]]}, "prompt", "invalid_value", "empty"),
    (TEXT, {"prompt": ["a", "b"]}, "prompt", "invalid_value", "2 prompts"),
    (TEXT, {"prompt": [1, "a"]}, "prompt", "invalid_value", "valid"),
    (TEXT, {"prompt": {"a": 1}}, "prompt", "invalid_value", "valid"),
    (TEXT, {"prompt": [5, 9999]}, "prompt", "invalid_value", "token id 9999"),
    (TEXT, {"prompt": [-1]}, "prompt", "invalid_value", "greater than or equal to 0"),
    (TEXT, {"prompt": [10**30]}, "prompt", "invalid_value", "less than or equal"),
    (TEXT, {"prompt": "x" * 3000}, "prompt", "invalid_value", "3000 tokens; this model holds 2048"),
    (TEXT, {"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1"),
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
    (TEXT, {"stop": ["a"] * 5}, "stop", "invalid_value", "at most four"),
    (TEXT, {"stop": "a" * 1001}, "stop", "invalid_value", "at most 1000 characters"),
    (TEXT, {"stop": ""}, "stop", "invalid_value", "empty"),
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
    (TEXT, {"n": 2}, "n", "unsupported_parameter", "or set it to 1"),
    (TEXT, {"echo": True}, "echo", "unsupported_parameter", "or set it to false"),
    (TEXT, {"logprobs": 0}, "logprobs", "unsupported_parameter", "logprobs"),
    (TEXT, {"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter", "set it to 0"),
    (CHAT, {"messages": []}, "messages", "invalid_value", "at least 1"),
    (CHAT, {"messages": "hi"}, "messages", "invalid_value", "list"),
    (
        CHAT,
        {"messages": [{"role": "wizard", "content": "x"}]},
        "messages.0.role",
        "invalid_value",
        "'user'",
    ),
    (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", "missing_parameter", "required"),
    (CHAT, {"messages": [HELLO[0], 5]}, "messages.1", "invalid_value", "object"),
    (CHAT, {"prompt": "x"}, "prompt", "unknown_parameter", "Unknown parameter: prompt"),
    (CHAT, {"tools": [{}]}, "tools", "unsupported_parameter", "or set it to []"),
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


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", NOT_SERVED)
def test_values_that_ask_for_nothing_pass(fake: Server, path: str, name: str) -> None:
    for value in (None, *NOT_SERVED[name]):
        assert fake.post(path, BODIES[path] | {name: value}).status == 200, value


def test_served_and_not_served_are_apart() -> None:
    assert not NOT_SERVED.keys() & (CompletionBody.model_fields | ChatBody.model_fields)


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
