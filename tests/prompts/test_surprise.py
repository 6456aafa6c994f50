"""Surprise as the engine rates it, whole or in windows, against the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.compress.quality import log_probabilities
from penstock.engine.request import TokenLogprob
from penstock.prompts import surprise
from penstock.prompts.scorer import Scorer
from penstock.workload import stdlib


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("embedded-draft")


def ids(scorer: Scorer, tokens: int) -> list[int]:
    text = "\n".join(text for _, text in list(stdlib.texts("held_out"))[:40])
    return scorer.tokenizer.encode(text, special=False)[:tokens]


@pytest.mark.parametrize(("tokens", "context"), [(1, 9), (8, 9), (9, 9), (100, 9), (5000, 2048)])
def test_windows_rate_every_token_once_and_never_without_what_is_before(
    tokens: int, context: int
) -> None:
    over = surprise.windows(tokens, context)
    rated = [place for window in over for place in range(window.new, window.end)]
    assert rated == list(range(tokens))
    for window in over:
        assert window.end - window.start <= context - 1
        assert window.start == 0 or window.new - window.start >= (context - 1) // 4
    # Where they lie depends on what is before alone.
    assert surprise.windows(tokens + 7, context)[: len(over) - 1] == over[:-1]


def test_surprise_is_minus_the_log_probability(scorer: Scorer) -> None:
    prompt = ids(scorer, 200)
    (found,) = scorer.surprise([prompt])
    (expected,) = log_probabilities(scorer.llm, torch.tensor([prompt]))
    picked = -expected[torch.arange(199), torch.tensor(prompt[1:])]
    np.testing.assert_allclose(found[1:], picked.numpy(), atol=2e-2)
    assert found[0] == 0
    assert 2 < found.mean() < 6  # nats: a weak model, and no broken one


def test_a_prompt_beyond_the_context_is_rated_in_windows(scorer: Scorer) -> None:
    prompt = ids(scorer, 5000)
    whole, none = scorer.surprise([prompt, []])
    assert (len(whole), len(none)) == (5000, 0)
    (alone,) = scorer.surprise([prompt[:2000]])
    np.testing.assert_allclose(whole[:2000], alone, atol=2e-2)
    assert abs(whole[3000:].mean() - whole[:2000].mean()) < 1.0


def test_windows_are_joined_by_what_is_new_in_each() -> None:
    over = [surprise.Window(0, 0, 3), surprise.Window(2, 3, 5)]
    one = [None, TokenLogprob(-1.0, 1, []), TokenLogprob(-2.0, 1, [])]
    two = [None, TokenLogprob(-3.0, 1, []), TokenLogprob(-4.0, 1, [])]
    assert surprise.joined(over, [one, two]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="no log probabilities"):
        surprise.joined(over, [one, None])


def test_steps_of_a_large_vocabulary_are_small() -> None:
    assert surprise.options(4096).max_step_tokens == 512
    step = surprise.options(151_936).max_step_tokens
    assert step >= 8
    assert 4 * 151_936 * step <= 24 << 20
