"""Parameters at work on the embedded model: what is asked of the API is what the text shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.conftest import Server, StartEmbedded

TEXT = "/v1/completions"
PROMPT = '"""A module."""\n\nimport os\nimport sys\n\n\nclass Reader:\n    def read(self'


@pytest.fixture(scope="module")
def server(start_embedded: StartEmbedded) -> Iterator[Server]:
    with start_embedded("--dtype", "fp32", "--max-running", "16", "--kv-tokens", "8192") as server:
        yield server


def ask(server: Server, **more: Any) -> dict[str, Any]:
    answer = server.post(TEXT, {"prompt": PROMPT, "max_tokens": 24, "temperature": 0} | more)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def texts(body: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in body["choices"]]


def test_choices_are_draws_of_their_own_and_the_seed_says_which(server: Server) -> None:
    seeded = {"temperature": 1, "seed": 5}
    three = texts(ask(server, n=3, **seeded))
    assert len(set(three)) == 3
    assert texts(ask(server, n=3, **seeded)) == three
    assert texts(ask(server, n=1, **seeded)) == three[:1]
    assert texts(ask(server, n=2, temperature=1)) != texts(ask(server, n=2, temperature=1))


def test_several_prompts_say_what_each_says_alone(server: Server) -> None:
    prompts = [PROMPT, "import re\n", "def main():\n"]
    together = ask(server, prompt=prompts, n=2, temperature=1, seed=1)
    alone = [ask(server, prompt=prompt, n=2, temperature=1, seed=1) for prompt in prompts]
    assert texts(together) == [text for body in alone for text in texts(body)]
    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    assert together["usage"]["prompt_tokens"] == sum(b["usage"]["prompt_tokens"] for b in alone)


def test_the_prompts_log_probabilities_are_those_it_was_sampled_with(server: Server) -> None:
    sampled = ask(server, logprobs=2, temperature=1, seed=3)["choices"][0]
    ids = server.post("/tokenize", {"prompt": PROMPT}).body["tokens"]
    # The tokens themselves: text alone may be cut into others.
    best = ask(server, prompt=[ids], logprobs=0, temperature=0)["choices"][0]
    assert sum(best["logprobs"]["token_logprobs"]) > sum(sampled["logprobs"]["token_logprobs"])
    echoed = ask(server, prompt=PROMPT + best["text"], echo=True, logprobs=1, max_tokens=0)
    told = echoed["choices"][0]["logprobs"]
    assert echoed["choices"][0]["text"] == PROMPT + best["text"]
    assert "".join(told["tokens"]) == PROMPT + best["text"]
    starts = dict(zip(told["text_offset"], told["token_logprobs"], strict=True))
    own = zip(best["logprobs"]["text_offset"], best["logprobs"]["token_logprobs"], strict=True)
    assert told["token_logprobs"][0] is None
    if told["tokens"][len(ids) :] == best["logprobs"]["tokens"]:
        for offset, logprob in own:
            assert starts[len(PROMPT) + offset] == pytest.approx(logprob, abs=1e-3)
    for token, top in zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= token - 1e-6


def test_best_of_is_the_likeliest(server: Server) -> None:
    seeded = {"temperature": 1, "seed": 9, "logprobs": 0}
    all_ = ask(server, n=4, **seeded)["choices"]
    means = {}
    for choice in all_:
        logprobs = choice["logprobs"]["token_logprobs"]
        means[choice["text"]] = sum(logprobs) / len(logprobs)
    best = ask(server, n=2, best_of=4, **seeded)
    assert texts(best) == sorted(means, key=lambda text: -means[text])[:2]
    assert best["usage"]["completion_tokens"] == sum(len(c["logprobs"]["tokens"]) for c in all_)


def test_beams_are_likelier_than_greed(server: Server) -> None:
    beams = ask(server, use_beam_search=True, n=2, best_of=4, max_tokens=12, ignore_eos=True)
    greedy = ask(server, max_tokens=12, ignore_eos=True)
    assert len(set(texts(beams))) == 2

    def likelihood(text: str) -> float:
        told = ask(server, prompt=PROMPT + text, echo=True, logprobs=0, max_tokens=0)
        return sum(told["choices"][0]["logprobs"]["token_logprobs"][1:])

    first, second = map(likelihood, texts(beams))
    assert first >= likelihood(texts(greedy)[0]) - 1e-3
    assert first >= second - 1e-3


def test_a_bias_forbids_and_forces(server: Server) -> None:
    first = ask(server, max_tokens=1, logprobs=0)["choices"][0]["text"]
    (token,) = server.post("/tokenize", {"prompt": first}).body["tokens"]
    assert texts(ask(server, max_tokens=1, logit_bias={str(token): -100})) != [first]
    forced = texts(ask(server, max_tokens=4, logit_bias={str(token): 100}))
    assert forced == [first * 4]


def test_a_penalty_ends_repetition(server: Server) -> None:
    again = {"prompt": "x = 1\n" * 20, "max_tokens": 30, "ignore_eos": True}
    (plain,) = texts(ask(server, **again))
    assert plain.startswith("x = 1\n" * 3)
    for penalty in ({"repetition_penalty": 20}, {"frequency_penalty": 2, "presence_penalty": 2}):
        assert texts(ask(server, **again, **penalty)) != [plain]


def test_the_end_waits_for_min_tokens(server: Server) -> None:
    eos = {"logit_bias": {"0": 100}, "prompt": "a\n", "max_tokens": 20}
    end = server.post("/tokenize", {"prompt": "<|endoftext|>"}).body["tokens"]
    eos["logit_bias"] = {str(end[0]): 100}
    assert ask(server, **eos)["usage"]["completion_tokens"] == 1
    assert ask(server, **eos, min_tokens=7)["usage"]["completion_tokens"] == 8


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": [1, 22, 333]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_output_has_the_form_asked(server: Server, temperature: float, stream: bool) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    lark = 'start: "<" WORD ">"\nWORD: /[a-z]{1,5}/'
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"response_format": schema}, None),
        ({"structured_outputs": {"json": SCHEMA}}, None),
        ({"structured_outputs": {"regex": r"[0-9]{2}-[ab]{1,9}"}}, r"[0-9]{2}-[ab]{1,9}"),
        ({"structured_outputs": {"choice": ["a (b)", "ä|ö", "c"]}}, r"a \(b\)|ä\|ö|c"),
        ({"structured_outputs": {"grammar": lark}}, r"<[a-z]{1,5}>"),
    ]
    for more, pattern in cases:
        body = {"prompt": PROMPT, "max_tokens": 200, "temperature": temperature, "seed": 1} | more
        if stream:
            choices = [chunk["choices"][0] for chunk in server.events(TEXT, body)[:-1]]
        else:
            choices = server.post(TEXT, body).body["choices"]
        text = "".join(choice["text"] for choice in choices)
        if choices[-1]["finish_reason"] == "length":
            continue  # which says that it is not complete
        if pattern is None:
            assert json.loads(text).keys() == {"name", "size"}
        else:
            assert re.fullmatch(pattern, text), text


def test_timings_are_real(server: Server) -> None:
    (choice,) = ask(server, include_timings=True, max_tokens=40, ignore_eos=True)["choices"]
    timings = choice["timings"]
    assert timings["queue_s"] >= 0
    assert timings["prefill_s"] > 0
    assert timings["decode_s"] > timings["prefill_s"] / 100
    assert timings["preemptions"] == 0
    again = ask(server, include_timings=True, stop="\n", n=2, temperature=1)
    for choice in again["choices"]:
        assert choice["timings"]["cached_tokens"] > 0


def test_tools_need_a_template_that_knows_them(server: Server) -> None:
    body = {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    error = server.post("/v1/chat/completions", body).body["error"]
    assert error["param"] == "tools"
