"""Guesses behind HTTP: the same text in fewer steps, streamed with several tokens an event."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.serve.conftest import Server, StartEmbedded
from tests.serve.test_metrics import samples

TEXT = "/v1/completions"
PROMPT = "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\n" * 2
ASK = {"prompt": PROMPT, "max_tokens": 64, "temperature": 0.7, "seed": 4, "ignore_eos": True}
STREAMED = ASK | {"logprobs": 1, "stream_options": {"include_usage": True}}


def said(server: Server) -> tuple[str, str, list[float], int]:
    """One text in one piece; the same streamed, its log probabilities, and its tokens."""
    whole = server.post(TEXT, ASK).body["choices"][0]["text"]
    events = server.events(TEXT, STREAMED)[:-1]
    choices = [event["choices"][0] for event in events if event["choices"]]
    text = "".join(choice["text"] for choice in choices)
    views = [p for c in choices if c["logprobs"] for p in c["logprobs"]["token_logprobs"]]
    return whole, text, views, events[-1]["usage"]["completion_tokens"]


@pytest.fixture(scope="module")
def plain(start_embedded: StartEmbedded) -> tuple[str, str, list[float], int]:
    with start_embedded("--dtype", "fp32") as server:
        return said(server)


@pytest.mark.parametrize("source", ["lookup", "suffix", "draft"])
def test_the_text_is_the_same_and_metrics_tell_what_came_true(
    source: str, plain: tuple[str, str, list[float], int], start_embedded: StartEmbedded
) -> None:
    with start_embedded("--dtype", "fp32", "--speculate", source, "--draft-tokens", "4") as server:
        whole, text, views, tokens = said(server)
        assert (whole, text, tokens) == (plain[0], plain[1], plain[3])
        assert views == pytest.approx(plain[2], abs=1e-4)
        server.eventually(server.at_rest, "at rest")
        shown = samples(server)
    drafts, made = (shown[f"spec_decode_num_{n}_total"] for n in ("drafts", "draft_tokens"))
    right = shown["spec_decode_num_accepted_tokens_total"]
    assert 0 < right < made <= 4 * drafts
    # A step gives one token more than came true; but if it ends the text, that may be a guess.
    tokens, steps = shown["generation_tokens_total"], shown["sequence_steps_total"]
    assert 0 <= steps + right - tokens <= 2
    assert drafts <= steps < tokens
    assert shown["engine_steps_total"] < 2 * 64  # of two answers: fewer than their tokens
    by_position = [shown[f"spec_decode_num_draft_tokens_per_pos_total {i}"] for i in range(4)]
    assert by_position[0] == drafts
    assert sum(by_position) == made
    assert sum(shown[f"spec_decode_num_accepted_tokens_per_pos_total {i}"] for i in range(4)) == (
        right
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speculate", "draft", "--draft-model", "nowhere"], "nowhere"),
        (["--draft-tokens", "3"], "draft_tokens=3 without guesses"),
        (["--speculate", "lookup", "--draft-tokens", "99"], "between 1 and 16"),
        (["--speculate", "lookup", "--draft-model", "embedded-draft"], "set speculate=draft"),
        (["--speculate", "suffix", "--no-kv-cache"], "needs the KV cache"),
    ],
)
def test_what_cannot_be_is_said_with_its_name(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "penstock", "serve", "--port", "0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert message in ended.stderr
