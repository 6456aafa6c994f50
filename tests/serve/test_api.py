"""Both APIs, streamed and not, say the same, and say how many tokens it was."""

from __future__ import annotations

import re

import pytest

from tests.serve.conftest import REPO, Server
from tests.serve.fake_engine import EOS

PATHS = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat.completion"}


def ask(path: str, text: str, **more: object) -> dict[str, object]:
    if path == "/v1/completions":
        return {"prompt": text, **more}
    return {"messages": [{"role": "user", "content": text}], **more}


def prompt_of(path: str, text: str) -> bytes:
    return text.encode() if path == "/v1/completions" else f"user: {text}\n".encode()


def text_of(path: str, choice: dict[str, dict[str, str]]) -> str:
    if path == "/v1/completions":
        return choice["text"]
    return (choice.get("message") or choice["delta"])["content"]


@pytest.mark.parametrize("path", PATHS)
def test_plain(fake: Server, path: str) -> None:
    answer = fake.post(path, ask(path, "The sea. ", max_tokens=20))
    assert answer.status == 200
    body = answer.body
    prompt = prompt_of(path, "The sea. ")
    assert body["object"] == PATHS[path]
    assert body["model"] == fake.ready["model"] == "bytes"
    (choice,) = body["choices"]
    assert text_of(path, choice) == (prompt * 3)[:20].decode()
    assert choice["finish_reason"] == "length"
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 20,
        "total_tokens": len(prompt) + 20,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize("path", PATHS)
def test_streamed(fake: Server, path: str) -> None:
    body = ask(path, "The sea. ", max_tokens=20, stream_options={"include_usage": True})
    *chunks, usage, done = fake.events(path, body)
    prompt = prompt_of(path, "The sea. ")
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 20
    assert usage["usage"]["prompt_tokens"] == len(prompt)
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    texts = [text_of(path, chunk["choices"][0]) for chunk in chunks]
    assert "".join(texts) == (prompt * 3)[:20].decode()
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None] * (len(chunks) - 1) + ["length"]
    if path == "/v1/chat/completions":
        roles = [chunk["choices"][0]["delta"].get("role") for chunk in chunks]
        assert roles == ["assistant"] + [None] * (len(chunks) - 1)


@pytest.mark.parametrize("path", PATHS)
def test_usage_on_every_chunk(fake: Server, path: str) -> None:
    """A meter must not count events: one event may carry several tokens."""
    options = {"continuous_usage_stats": True, "include_usage": True}
    body = ask(path, "日本", max_tokens=18, stream_options=options)
    *chunks, usage, _ = fake.events(path, body)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(set(counts))
    assert counts[-1] == usage["usage"]["completion_tokens"] == 18


def test_no_usage_unless_asked(fake: Server) -> None:
    *chunks, done = fake.events("/v1/completions", {"prompt": "ab", "max_tokens": 3})
    assert done == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)


def test_a_character_cut_between_tokens_arrives_whole(fake: Server) -> None:
    text = "naïve 日本語 👩‍🚀 "
    size = len(text.encode())
    chunks = fake.events("/v1/completions", {"prompt": text, "max_tokens": 2 * size})[:-1]
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == text * 2
    assert not any("\ufffd" in piece for piece in texts)


def test_a_character_that_never_ends_is_replaced(fake: Server) -> None:
    ask = {"prompt": "日", "max_tokens": 5}
    chunks = fake.events("/v1/completions", ask)[:-1]
    streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    plain = fake.post("/v1/completions", ask).body["choices"][0]["text"]
    assert plain == streamed == "日\ufffd"


def test_token_ids_as_prompt(fake: Server) -> None:
    for prompt in ([104, 105], [[104, 105]]):
        body = fake.post("/v1/completions", {"prompt": prompt, "max_tokens": 4}).body
        assert body["choices"][0]["text"] == "hihi"
        assert body["usage"]["prompt_tokens"] == 2


def test_end_of_sequence_is_counted_and_not_shown(fake: Server) -> None:
    ask = {"prompt": [104, 105, EOS], "max_tokens": 9}
    body = fake.post("/v1/completions", ask).body
    assert body["choices"][0] == {
        "text": "hi",
        "finish_reason": "stop",
        "index": 0,
        "logprobs": None,
    }
    assert body["usage"]["completion_tokens"] == 3
    ignored = fake.post("/v1/completions", {**ask, "ignore_eos": True}).body
    assert ignored["usage"]["completion_tokens"] == 9


def test_stop_token_ids(fake: Server) -> None:
    ask = {"prompt": "abcdef", "max_tokens": 9, "stop_token_ids": [ord("d")]}
    body = fake.post("/v1/completions", ask).body
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 4


def test_completions_default_to_sixteen_tokens(fake: Server) -> None:
    body = fake.post("/v1/completions", {"prompt": "a"}).body
    assert body["usage"]["completion_tokens"] == 16


def test_chat_without_a_limit_fills_the_context(fake: Server) -> None:
    ask = {"messages": [{"role": "user", "content": "x"}]}
    usage = fake.post("/v1/chat/completions", ask).body["usage"]
    assert usage["total_tokens"] == 2048


def test_chat_content_in_parts(fake: Server) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 8}
    body = fake.post("/v1/chat/completions", ask).body
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "user: ab"}


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string_is_cut_and_ends_the_request(fake: Server, stream: bool) -> None:
    ask = {"prompt": "one two three ", "max_tokens": 1500, "stop": ["three", "zzz"]}
    if stream:
        chunks = fake.events("/v1/completions", ask)[:-1]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        finish = chunks[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = fake.post("/v1/completions", ask).body["choices"]
        text, finish = choice["text"], choice["finish_reason"]
    assert (text, finish) == ("one two ", "stop")
    fake.eventually(fake.at_rest, "the engine goes on after a stop string")


def test_models(fake: Server) -> None:
    (model,) = fake.get("/v1/models").body["data"]
    assert model["id"] == "bytes"
    assert model["owned_by"] == "penstock"
    assert model["max_model_len"] == 2048
    assert model["penstock"]["page_size"] == model["penstock"]["options"]["page_size"] == 16
    named = {"model": "bytes", "prompt": "a", "max_tokens": 1}
    assert fake.post("/v1/completions", named).status == 200


def test_every_metric_is_documented(fake: Server) -> None:
    page = (REPO / "docs" / "serving.md").read_text()
    names = re.findall(r"^# TYPE penstock:(\w+)", fake.get("/metrics").body, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if f"`{name}" not in page] == []


def test_metrics_count_what_was_served(start_fake) -> None:
    with start_fake(step_s=0.02) as server:  # each token by itself
        for _ in range(3):
            server.post("/v1/completions", {"prompt": "abcd", "max_tokens": 5})
        server.eventually(server.at_rest, "at rest")
        assert server.metric("prompt_tokens_total") == 12
        assert server.metric("generation_tokens_total") == 15
        assert server.metric("engine_steps_total") == 15
        assert server.metric('requests_total{outcome="length"}') == 3
        for name in ("time_to_first_token", "request_time_per_output_token", "e2e_request_latency"):
            assert server.metric(f"{name}_seconds_count") == 3
