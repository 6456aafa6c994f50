"""The embedded model behind `penstock serve`: the whole path, from text to text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock import models
from penstock.engine.model.tokenizer import Tokenizer
from tests.serve import http_client
from tests.serve.conftest import Server, StartEmbedded

TEXT = "/v1/completions"
PROMPT = '"""A module."""\n\nimport os\nimport sys\n\n\nclass Reader:\n    def read(self'


@pytest.fixture(scope="module")
def server(start_embedded: StartEmbedded) -> Iterator[Server]:
    with start_embedded("--dtype", "fp32", "--max-running", "8", "--kv-tokens", "2048") as server:
        yield server


def test_streamed_equals_plain_equals_token_ids(server: Server) -> None:
    ids = Tokenizer.load(models.path("embedded")).encode(PROMPT)
    ask = {"prompt": PROMPT, "max_tokens": 48, "temperature": 0, "ignore_eos": True}
    plain = server.post(TEXT, ask).body
    chunks = server.events(TEXT, ask)[:-1]
    text = plain["choices"][0]["text"]
    assert text
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    assert server.post(TEXT, ask | {"prompt": ids}).body["choices"][0]["text"] == text
    assert plain["usage"]["prompt_tokens"] == len(ids)
    assert plain["usage"]["completion_tokens"] == 48


def test_the_same_alone_and_among_others(server: Server) -> None:
    def ask(seed: int) -> dict[str, object]:
        return {"prompt": PROMPT + str(seed % 5), "max_tokens": 32, "temperature": 1, "seed": seed}

    alone = [server.post(TEXT, ask(seed)).body["choices"] for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda seed: server.post(TEXT, ask(seed)).body, range(12)))
    assert [body["choices"] for body in together] == alone


def test_a_prompt_seen_before_is_cached(server: Server) -> None:
    ask = {"prompt": [7 + n % 90 for n in range(200)], "max_tokens": 2}
    first, second = (server.post(TEXT, ask).body["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    # Whole pages of 16, and the last token is always computed.
    assert second["prompt_tokens_details"]["cached_tokens"] == 192
    assert second["prompt_tokens"] == first["prompt_tokens"] == 200


def test_what_cannot_fit_is_refused_with_the_numbers(server: Server) -> None:
    too_long = server.post(TEXT, {"prompt": [5] * 5000})
    assert too_long.status == 400
    error = too_long.body["error"]
    assert error["param"] == "prompt"
    assert "5,000" in error["message"]
    assert "2,048" in error["message"]
    error = server.post(TEXT, {"prompt": [5] * 1000, "max_tokens": 1500}).body["error"]
    assert error["param"] == "max_tokens"
    assert "1,500" in error["message"]


def test_hanging_up_gives_the_pages_back(server: Server) -> None:
    for stream in (False, True):
        body = {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True, "stream": stream}
        held = [http_client.post_and_hold(server.address, TEXT, body) for _ in range(3)]
        server.eventually(lambda: server.metric("num_requests_running") > 0, "they run")
        for connection in held:
            connection.close()
        server.eventually(server.at_rest, "no page held")


def test_the_model_is_described(server: Server) -> None:
    (model,) = server.get("/v1/models").body["data"]
    facts = model["penstock"]
    assert model["id"] == facts["name"] == "embedded"
    assert facts["dtype"] == "fp32"
    assert facts["options"]["kv_tokens"] == 2048
    assert facts["pages"] * facts["page_size"] == 2048
    assert facts["parameters"] > 1_000_000


@pytest.mark.parametrize(
    "switches",
    [
        ["--batching", "static", "--fill-wait", "0.3", "--no-chunked-prefill"],
        ["--no-kv-cache", "--no-prefix-sharing", "--max-step-tokens", "2048"],
    ],
    ids=["static", "no cache"],
)
def test_the_baselines_say_the_same(
    server: Server, start_embedded: StartEmbedded, switches: list[str]
) -> None:
    ask = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    expected = server.post(TEXT, ask).body["choices"]
    with start_embedded("--dtype", "fp32", "--max-running", "4", *switches) as baseline:
        started = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: baseline.post(TEXT, ask), range(3)))
        assert [answer.body["choices"] for answer in answers] == [expected] * 3
        if "static" in switches:  # three wait for a fourth, which does not come
            assert time.monotonic() - started >= 0.3
            assert baseline.get("/health").status == 200
        baseline.eventually(baseline.at_rest, "at rest")
