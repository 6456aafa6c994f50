"""What is drawn with guesses follows the model's own distribution; planted errors are seen."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaForCausalLM

from penstock.engine import runner
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.engine.speculate.speculator import Tally
from tests.engine.speculate.faults import accepted_too_often, bonus_off_by_one, no_resample

PROMPT = [5, 17, 99, 5, 17, 99, 5, 17]
SEEDS = 2500
KEPT, LENGTH = 3, 4  # likeliest tokens at each place, places

Text = tuple[int, ...]


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[Text, float]:
    """Probability of every text, from transformers' logits."""
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    chances: dict[Text, float] = {(): 1.0}
    for _ in range(LENGTH):
        contexts = list(chances)
        with torch.inference_mode():
            logits = model(torch.tensor([[*PROMPT, *text] for text in contexts])).logits[:, -1]
        top = logits.topk(KEPT)
        after = top.values.softmax(-1).tolist()
        chances = {
            (*text, token): chances[text] * share
            for text, tokens, shares in zip(contexts, top.indices.tolist(), after, strict=True)
            for token, share in zip(tokens, shares, strict=True)
        }
    return chances


def drawn(checkpoint: Path, draft: Path) -> tuple[Counter[Text], Tally]:
    options = EngineOptions(
        dtype="fp32", kv_tokens=4096, max_running=64, max_step_tokens=512, threads=1,
        max_waiting=SEEDS, speculate="draft", draft_model=str(draft), draft_tokens=2,
    )  # fmt: skip
    engine = Engine.load(str(checkpoint), options)
    for seed in range(SEEDS):
        params = SamplingParams(top_k=KEPT, max_tokens=LENGTH, seed=seed, ignore_eos=True)
        engine.submit(GenerateRequest(id=str(seed), prompt=PROMPT, params=params))
    texts: dict[str, list[int]] = {}
    while engine.has_work:
        for delta in engine.step():
            texts.setdefault(delta.request_id, []).extend(delta.token_ids)
    assert engine.speculation is not None
    return Counter(map(tuple, texts.values())), engine.speculation


def fit(seen: Counter[Text], expected: dict[Text, float]) -> float:
    """P-value of the chi-square test; texts expected fewer than 5 times count as one."""
    rare = [text for text, chance in expected.items() if chance * SEEDS < 5]
    common = [text for text in expected if text not in rare]
    observed = [seen[text] for text in common]
    chances = [expected[text] for text in common]
    observed.append(SEEDS - sum(observed))
    chances.append(1 - sum(chances))
    return float(chisquare(observed, np.array(chances) / sum(chances) * SEEDS).pvalue)


def test_the_drawn_follow_the_model(
    checkpoint: Path, draft: Path, expected: dict[Text, float]
) -> None:
    seen, tally = drawn(checkpoint, draft)
    assert 0.2 < tally.right[0] / tally.made[0] < 0.95, "guesses are to be right and wrong"
    assert set(seen) <= set(expected)
    assert fit(seen, expected) > 1e-3


@pytest.mark.parametrize("fault", [no_resample, bonus_off_by_one, accepted_too_often])
def test_planted_faults_are_seen(
    fault: Callable[..., list[int]],
    checkpoint: Path,
    draft: Path,
    expected: dict[Text, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "pick", fault)
    assert fit(drawn(checkpoint, draft)[0], expected) < 1e-6


def test_every_text_is_expected_somewhere(expected: dict[Text, float]) -> None:
    assert len(expected) == KEPT**LENGTH
    assert sum(expected.values()) == pytest.approx(1)
    assert len(set(itertools.chain(*expected))) > KEPT
