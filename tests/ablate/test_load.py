"""Every rung is asked the same."""

import pytest

from penstock import models
from penstock.ablate.load import LENGTHS, QUICK, Load, Scale

pytest.importorskip("torch", reason="seeds of choices are the engine's")
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.sampling import choice_seed
from tests.ablate.fakes import TINY


@pytest.fixture(scope="module")
def load():
    return Load(TINY, Tokenizer.load(models.path("embedded")).encode)


def test_lengths_of_neighbours_average_one():
    assert sum(LENGTHS) == pytest.approx(len(LENGTHS))
    assert sum(LENGTHS[:2]) == pytest.approx(2)


def test_prompts_share_their_beginning_and_differ_after_it(load):
    prompts = load.prompts(("rounds", 0))
    assert len(prompts) == TINY.prompts
    assert {tuple(p[: TINY.shared]) for p in prompts} == {tuple(prompts[0][: TINY.shared])}
    assert len({tuple(p) for p in prompts}) == TINY.prompts
    assert all(len(p) == TINY.prompt for p in prompts)


def test_rounds_have_texts_of_their_own(load):
    turns = [("rounds", 0), ("rounds", 1), ("curve", 0), ("warm", 0)]
    assert len({tuple(load.prompts(turn)[0]) for turn in turns}) == len(turns)


def test_samples_together_and_apart_are_the_same_requests(load):
    prompts = load.prompts(("rounds", 0))
    apart, together = (load.requests(prompts, t) for t in (False, True))
    assert len(apart) == TINY.requests
    spread = [
        (one.prompt, one.output, choice_seed(one.seed, sample))
        for one in together
        for sample in range(one.samples)
    ]
    assert load.in_order(spread, together=True) == [(a.prompt, a.output, a.seed) for a in apart]


@pytest.mark.parametrize(
    "wrong",
    [{"requests": 9}, {"shared": 0}, {"output": 1}, {"seats": 0}, {"rounds": 0}],
)
def test_what_does_not_fit_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Scale(**{"requests": 8, **wrong})


def test_the_longest_request_is_counted():
    assert QUICK.longest == QUICK.prompt + max(QUICK.length(i) for i in range(QUICK.prompts))
