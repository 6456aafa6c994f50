"""Penalties, bias and bans do to logits what their definitions say."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from penstock.engine.engine import Engine
from penstock.engine.request import SamplingParams
from penstock.engine.shaping import Shaping, shape
from penstock.schedule import RequestRefused
from tests.engine.test_engine import BASE, drain, prompts, request, tokens

VOCABULARY = 120


def plainly(
    logits: torch.Tensor, params: SamplingParams, prompt: list[int], output: list[int]
) -> torch.Tensor:
    """One row, token by token, as the definitions say it."""
    seen = torch.tensor([prompt + output])
    penalize = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
    out = penalize(seen, logits.clone()[None])[0]
    for token in set(output):
        out[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
    for token, bias in params.logit_bias.items():
        out[token] += bias
    if len(output) < params.min_tokens:
        out[list(params.stop_token_ids)] = float("-inf")
    return out


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_many_rows_at_once_equal_each_alone(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    logits = torch.randn(6, VOCABULARY) * 5
    expected, rows = logits.clone(), []
    for row in rng.sample(range(6), rng.randrange(1, 6)):
        params = SamplingParams(
            repetition_penalty=rng.choice([1.0, 1.3, 0.7]),
            presence_penalty=rng.choice([0.0, 1.5, -2.0]),
            frequency_penalty=rng.choice([0.0, 0.5, -0.25]),
            logit_bias={rng.randrange(VOCABULARY): rng.uniform(-9, 9) for _ in range(3)},
            min_tokens=rng.choice([0, 5, 200]),
            stop_token_ids=(3, 4),
        )
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 150))]
        output = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(0, 150))]
        shaping = Shaping(params, prompt, frozenset(params.stop_token_ids))
        for token in output:
            shaping.took(token)
        rows.append((row, shaping))
        expected[row] = plainly(logits[row], params, prompt, output)
    shape(logits, rows)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)


def greedy(engine: Engine, prompt: list[int], **params: object) -> list[int]:
    asked = SamplingParams(temperature=0.0, **({"max_tokens": 20, "ignore_eos": True} | params))
    engine.submit(request("one", prompt, asked))
    return tokens(drain(engine)["one"])


def test_what_they_do_to_text(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    prompt = prompts(1)[0]
    plain = greedy(engine, prompt)
    assert greedy(engine, prompt, logit_bias={7: 100.0}) == [7] * 20
    once = greedy(engine, prompt, presence_penalty=100.0)
    assert len(set(once)) == 20
    assert once[0] == plain[0]
    often = greedy(engine, prompt, logit_bias={7: 50.0, 9: 40.0}, frequency_penalty=3.0)
    assert set(often) == {7, 9}
    fresh = greedy(engine, prompt, repetition_penalty=100.0)
    assert not set(fresh) & set(prompt)
    first = plain[0]
    assert greedy(engine, prompt, stop_token_ids=(first,)) == [first]
    later = greedy(engine, prompt, stop_token_ids=(first,), min_tokens=6)
    assert len(later) > 6 or (len(later) == 7 and later[-1] == first)
    assert first not in later[:6]


def test_they_change_nobody_else(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    asked = prompts(6)
    shaped = SamplingParams(temperature=0.0, max_tokens=20, logit_bias={7: 100.0})
    plain = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
    alone = [greedy(engine, prompt) for prompt in asked]
    for i, prompt in enumerate(asked):
        engine.submit(request(i, prompt, shaped if i % 2 else plain))
    out = drain(engine)
    for i in range(6):
        assert tokens(out[str(i)]) == ([7] * 20 if i % 2 else alone[i])


def test_tokens_the_model_lacks_are_refused(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    with pytest.raises(RequestRefused, match="logit_bias holds token id 259") as refused:
        engine.submit(request("a", [1], SamplingParams(logit_bias={259: 1.0})))
    assert refused.value.field == "logit_bias"
