"""Self-consistency and best-of over the choices of the offline interface."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.engine.llm import LLM, Choice, Completion
from penstock.engine.options import EngineOptions
from penstock.engine.request import FinishReason, SamplingParams, Timing
from penstock.engine.votes import best_of, self_consistency

NO_TIME = Timing(0.0, 0.0, 0.0, 0)


def completion(*texts: str, reason: FinishReason = "stop") -> Completion:
    return Completion([choice(text, reason) for text in texts], 1, 0, None)


def choice(text: str, reason: FinishReason = "stop") -> Choice:
    return Choice(text, [], reason, [], None, None, NO_TIME)


def last_word(text: str) -> str | None:
    return text.split()[-1] if text.split() else None


def test_the_majority_decides_and_its_share_is_told() -> None:
    said = completion("it is 4", "well, 5", "", "so 5")
    vote = self_consistency(said, last_word)
    assert vote.choice is said.choices[1]
    assert (vote.key, vote.share, vote.tied) == ("5", 0.5, ())
    assert vote.tally.votes == {"5": 2, "4": 1}


def test_a_tie_goes_to_the_first_and_is_told() -> None:
    vote = self_consistency(completion("4", "5", "5", "4", "6"), last_word)
    assert (vote.key, vote.tied) == ("4", ("5",))


def test_nobody_answers_and_nobody_is_chosen() -> None:
    vote = self_consistency(completion("", ""), last_word)
    assert (vote.choice, vote.key, vote.share) == (None, None, 0.0)


def test_what_failed_has_no_vote_and_no_score() -> None:
    said = Completion([choice("5", "error"), choice("5", "abort"), choice("4")], 1, 0, None)
    vote = self_consistency(said, last_word)
    assert (vote.key, vote.share) == ("4", pytest.approx(1 / 3))
    best = best_of(said, float)
    assert (best.choice, best.scores) == (said.choices[2], [None, None, 4.0])
    none = best_of(completion("5", reason="error"), float)
    assert (none.choice, none.tied) == (None, 0)


def test_a_verifier_chooses_the_best_and_tells_how_many_are_as_good() -> None:
    said = completion("3", "9", "2", "9")
    best = best_of(said, float)
    assert (best.choice, best.tied) == (said.choices[1], 1)
    right = best_of(said, lambda text: text == "2")
    assert (right.choice, right.scores) == (said.choices[2], [0.0, 0.0, 1.0, 0.0])
    nothing = best_of(said, lambda text: text == "no")
    assert (nothing.choice, nothing.tied) == (said.choices[0], 3)


def test_a_score_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="score of choice 1"):
        best_of(completion("1", "2"), lambda text: math.nan if text == "2" else 1.0)


def test_hundreds_of_samples_vote_though_few_run_at_once(checkpoint: Path) -> None:
    options = EngineOptions(
        dtype="fp32", kv_tokens=2048, max_running=24, max_step_tokens=64, threads=1
    )
    llm = LLM(str(checkpoint), options)
    asked = SamplingParams(n=600, max_tokens=3, temperature=0.5, seed=1, ignore_eos=True)
    prompt = [5] * 65  # four full pages, and a token that everybody computes
    (said,) = llm.generate([prompt], asked)
    assert len(said.choices) == 600
    assert {c.finish_reason for c in said.choices} == {"length"}
    vote = self_consistency(said, lambda text: text)
    assert vote.tally.answers == sum(vote.tally.votes.values()) == 600
    assert 1 / 600 < vote.share < 1
    few, _ = llm.generate([prompt, "beside it"], SamplingParams(n=5, **_rest(asked)))
    assert [c.token_ids for c in few.choices] == [c.token_ids for c in said.choices[:5]]
    assert all(c.timing.queue_s >= 0 for c in said.choices)
    assert said.choices[-1].timing.queue_s > said.choices[0].timing.queue_s


def _rest(params: SamplingParams) -> dict[str, object]:
    names = ("max_tokens", "temperature", "seed", "ignore_eos")
    return {name: getattr(params, name) for name in names}


def test_voting_imports_no_torch() -> None:
    code = "import sys, penstock.engine.votes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
