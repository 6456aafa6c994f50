"""Prompts that a server shortens, over real HTTP with the models that ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from penstock import models
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.serve.options import ServeOptions
from penstock.serve.shortening import small_model
from penstock.workload import stdlib
from tests.serve.conftest import Server

TOKENIZER = Tokenizer.load(models.path("embedded"))
OVER = 300


@pytest.fixture(scope="module")
def server(start_embedded: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    with start_embedded("--compress-prompts", "0.5", "--compress-over", str(OVER)) as one:
        yield one


def source(tokens: int, skip: int = 0) -> str:
    """So many tokens of held-out source text."""
    text = "\n".join(text for _, text in list(stdlib.texts("held_out"))[:12])
    return TOKENIZER.decode(TOKENIZER.encode(text, special=False)[skip:][:tokens])


def ask(server: Server, prompt: Any, path: str = "/v1/completions", **more: Any) -> Any:
    key = "messages" if "chat" in path else "prompt"
    return server.post(path, {key: prompt, "max_tokens": 4, "temperature": 0, **more})


def usage(server: Server, prompt: Any, **more: Any) -> tuple[int, int | None]:
    """Prompt tokens that the model read, and how many there were before, if they differ."""
    answer = ask(server, prompt, **more)
    assert answer.status == 200, answer.body
    told = answer.body["usage"]
    return told["prompt_tokens"], told["prompt_tokens_details"].get("original_tokens")


def test_long_prompts_are_shortened_and_the_answer_says_so(server: Server) -> None:
    text = source(900)
    tokens = len(TOKENIZER.encode(text))
    kept, before = usage(server, text)
    assert before == tokens
    # Half of what is not protected, and less by a line a segment at most.
    assert 0.45 * tokens < kept < 0.66 * tokens
    assert usage(server, source(OVER - 20)) == (OVER - 20, None)


def test_a_request_says_whether_and_how_far(server: Server) -> None:
    text = source(800, skip=1000)
    tokens = len(TOKENIZER.encode(text))
    assert usage(server, text, compress_prompt=False) == (tokens, None)
    half, quarter = (usage(server, text, compress_prompt=keep)[0] for keep in (0.5, 0.25))
    assert quarter < half == usage(server, text, compress_prompt=True)[0]
    short = source(250)
    assert usage(server, short, compress_prompt=0.3)[1] == len(TOKENIZER.encode(short))
    refused = ask(server, text, compress_prompt=1.5)
    assert (refused.status, refused.body["error"]["param"]) == (400, "compress_prompt")


def test_what_shows_the_prompt_gets_it_whole(server: Server) -> None:
    text = source(400)
    answer = ask(server, text, echo=True)
    assert answer.body["choices"][0]["text"].startswith(text)
    assert usage(server, text, prompt_logprobs=0)[1] is None
    for more in ({"echo": True}, {"prompt_logprobs": 0}):
        refused = ask(server, text, compress_prompt=True, **more)
        assert (refused.status, refused.body["error"]["param"]) == (400, "compress_prompt")


def test_of_several_prompts_the_long_ones_are_shortened(server: Server) -> None:
    short, long = source(100), source(700)
    kept, before = usage(server, [short, long])
    alone, _ = usage(server, long)
    assert kept == len(TOKENIZER.encode(short)) + alone
    assert before == len(TOKENIZER.encode(short)) + len(TOKENIZER.encode(long))


def test_prompts_that_begin_alike_still_share_their_pages(server: Server) -> None:
    text = source(900, skip=3000)
    first = ask(server, text + "\n" + source(150))
    second = ask(server, text + "\n" + source(150, skip=200))
    assert first.body["usage"]["prompt_tokens_details"]["cached_tokens"] < 64
    # What was protected at the end of neither, in whole segments: more than half of 900 / 2.
    assert second.body["usage"]["prompt_tokens_details"]["cached_tokens"] > 225


def test_a_stream_and_the_metrics_count_it(server: Server) -> None:
    names = ("requests", "prompt_tokens", "prompt_tokens_kept")
    before = [server.metric(f"compressed_{name}_total") for name in names]
    text = source(640)
    body = {"prompt": text, "max_tokens": 3, "stream": True}
    events = server.events("/v1/completions", body | {"stream_options": {"include_usage": True}})
    told = next(event["usage"] for event in events if isinstance(event, dict) and event["usage"])
    counted = [server.metric(f"compressed_{name}_total") for name in names]
    grown = [now - then for now, then in zip(counted, before, strict=True)]
    assert grown == [1, len(TOKENIZER.encode(text)), told["prompt_tokens"]]
    assert told["prompt_tokens_details"]["original_tokens"] == grown[1]
    assert server.metric("compress_seconds_total") > 0


def test_the_server_tells_how_it_shortens(server: Server) -> None:
    told = server.get("/v1/models").body["data"][0]["penstock"]["compress_prompts"]
    assert (told["model"], told["over_tokens"]) == ("embedded-draft", OVER)
    assert told["rule"]["keep"] == 0.5


def test_without_the_switch_asking_is_refused(
    start_embedded: Callable[..., AbstractContextManager[Server]],
) -> None:
    with start_embedded() as plain:
        refused = ask(plain, source(400), compress_prompt=True)
        assert (refused.status, refused.body["error"]["param"]) == (400, "compress_prompt")
        assert usage(plain, source(400), compress_prompt=False)[1] is None


def test_a_small_model_must_share_the_vocabulary() -> None:
    options, engine = ServeOptions(compress_keep=0.5), EngineOptions()
    assert small_model("embedded", engine, options) == "embedded-draft"
    with pytest.raises(ValueError, match="--compress-model"):
        small_model("embedded-draft", engine, options)
    with pytest.raises(ValueError, match="compress_keep"):
        ServeOptions(compress_model="embedded-draft")
    with pytest.raises(ValueError, match=r"compress_keep=1.5 .*--compress-prompts"):
        ServeOptions(compress_keep=1.5)
