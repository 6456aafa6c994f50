"""Whoever is asked in vain is asked less often and costs little; what pays again is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.engine.speculate import speculator as module
from penstock.engine.speculate.lengths import StepTable, price
from penstock.engine.speculate.speculator import MOST_RESTS, STAKE, TRIAL_SHARE, Speculator
from penstock.engine.speculate.surcharge import APART, Surcharge

STEP = StepTable([1, 2, 4, 8, 16, 32], [0.020, 0.020, 0.021, 0.025, 0.033, 0.060])


class Offers:
    """A drafter that always offers so many guesses to each, and counts how often it is asked."""

    most = 4

    def __init__(self, guesses: int = 1, each_s: float = 0.1) -> None:
        self.asked = 0
        self.guesses = guesses
        self.each_s = each_s

    def offer(self, sequence: Any, generation: Any) -> list[str]:
        self.asked += 1
        return ["kind"] * self.guesses

    def guess(self, counts: Any, generations: Any) -> None: ...

    def learn(self, sequence: Any, generation: Any, right: int) -> None: ...

    def ended(self, sequence: Any, generation: Any) -> None: ...

    def seconds(self, rows: int) -> float:
        return self.each_s * rows


def steps(speculator: Speculator, sequences: list[str], count: int, right: int) -> int:
    """So many steps in which guesses come true or not; how many guesses were made."""
    generations: dict[Any, Any] = {
        s: SimpleNamespace(search=None, guess=[], tokens=[0]) for s in sequences
    }
    made = 0
    for _ in range(count):
        for sequence, number in speculator.ask(sequences, generations, 0).items():  # type: ignore[arg-type]
            generation = generations[sequence]
            generation.guess, generation.tokens = [1] * number, [0]
            made += number
            speculator.learn(sequence, generation, min(right, number))
    return made


def test_in_vain_is_seldom() -> None:
    drafter = Offers()
    speculator = Speculator(drafter, lambda rows: 1.0, None)  # type: ignore[arg-type]
    steps(speculator, ["a"], 200, right=0)  # learns that none comes true
    drafter.asked = 0
    made = steps(speculator, ["a"], 1600, right=0)
    assert drafter.asked <= 1600 / MOST_RESTS
    assert 0 < made <= 1600 * 0.005 / 0.1 + 1


def test_what_pays_again_is_found_out() -> None:
    speculator = Speculator(Offers(), lambda rows: 1.0, None)  # type: ignore[arg-type]
    steps(speculator, ["a"], 400, right=0)
    steps(speculator, ["a"], 4000, right=1)
    assert steps(speculator, ["a"], 100, right=1) == 100


def test_fewer_rows_are_asked_at_once() -> None:
    drafter = Offers()
    speculator = Speculator(drafter, lambda rows: 1.0 + 0.1 * rows, None)  # type: ignore[arg-type]
    steps(speculator, ["a", "b", "c"], 400, right=0)
    drafter.asked = 0
    steps(speculator, ["a"], 1, right=0)
    assert drafter.asked == 1


def gained(speculator: Speculator, batch: int, count: int, right: Callable[[], int]) -> float:
    """Seconds that the guesses of so many steps saved, by the table; `right` of each come true."""
    generations: dict[Any, Any] = {
        n: SimpleNamespace(search=None, guess=[], tokens=[0]) for n in range(batch)
    }
    saved = 0.0
    for _ in range(count):
        counts: Any = speculator.ask(generations.keys(), generations, 0)  # type: ignore[arg-type]
        speculator.guess(counts, generations)
        saved -= price(counts, batch, STEP, speculator.drafter.seconds)
        for sequence, number in counts.items():
            generations[sequence].guess = [1] * number
            came_true = min(right(), number)
            speculator.learn(sequence, generations[sequence], came_true)
            saved += came_true * STEP(batch) / batch
    return saved


def after_a_turn(batch: int, guesses: int, each_s: float, count: int = 200) -> float:
    """What is lost, in steps, once guesses that always came true never do again."""
    speculator = Speculator(Offers(guesses, each_s), STEP, None)  # type: ignore[arg-type]
    assert gained(speculator, batch, 200, lambda: guesses) > 0
    return -gained(speculator, batch, count, lambda: 0) / STEP(batch)


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize(("guesses", "each_s"), [(16, 0.0), (8, 0.0005)])
def test_a_source_that_turns_costs_no_more_than_the_stake(
    batch: int, guesses: int, each_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = TRIAL_SHARE * 200 + 1
    assert 0 < after_a_turn(batch, guesses, each_s) <= STAKE + trials
    monkeypatch.setattr(module, "STAKE", math.inf)
    assert after_a_turn(batch, guesses, each_s) > STAKE + trials


def test_the_stake_costs_an_honest_source_little(monkeypatch: pytest.MonkeyPatch) -> None:
    def honest() -> float:
        """Seconds without guesses that what was said is worth."""
        rng = Random(0)
        speculator = Speculator(Offers(8, 0.002), STEP, None)  # type: ignore[arg-type]
        saved = gained(speculator, 1, 3000, lambda: (rng.random() < 0.6) * rng.randint(1, 8))
        return 3000 * STEP(1) + saved

    staked = honest()
    monkeypatch.setattr(module, "STAKE", math.inf)
    assert staked > 0.95 * honest()


def test_what_the_table_does_not_tell_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> float:
        """Steps lost after a turn where a row is free by the table, and a guess takes a tenth."""
        speculator = Speculator(Offers(4, 0.0), lambda rows: 1.0, None)  # type: ignore[arg-type]
        generations: dict[Any, Any] = {0: SimpleNamespace(search=None, guess=[], tokens=[0])}
        rng, seconds = Random(0), 0.0
        for step in range(500):
            counts: Any = speculator.ask(generations.keys(), generations, 0)  # type: ignore[arg-type]
            speculator.guess(counts, generations)
            took = rng.gauss(1.0, 0.02) + (0.1 if counts else 0.0)
            for sequence, number in counts.items():
                generations[sequence].guess = [1] * number
                speculator.learn(sequence, generations[sequence], number if step < 200 else 0)
            speculator.took(took, counts)
            seconds += took - 1.0 if step >= 200 else 0.0
        return seconds

    assert lost() <= STAKE + TRIAL_SHARE * 300 + 1
    monkeypatch.setattr(Surcharge, "guessing", lambda self, over_s: None)
    assert lost() > STAKE + TRIAL_SHARE * 300 + 1


def test_one_step_in_so_many_is_without_guesses() -> None:
    speculator = Speculator(Offers(), lambda rows: 1.0, None)  # type: ignore[arg-type]
    generations: dict[Any, Any] = {0: SimpleNamespace(search=None, guess=[], tokens=[0])}
    steps(speculator, ["a"], 100, right=1)
    plain = []
    for step in range(3 * (APART + 1)):
        counts: Any = speculator.ask(generations.keys(), generations, 0)  # type: ignore[arg-type]
        speculator.guess(counts, generations)
        for sequence, number in counts.items():
            generations[sequence].guess = [1] * number
            speculator.learn(sequence, generations[sequence], number)
        speculator.took(1.0, counts)
        plain += [] if counts else [step]
    assert plain == [APART, 2 * APART + 1, 3 * APART + 2]


def test_a_hiccup_is_no_surcharge() -> None:
    surcharge = Surcharge()
    for _ in range(20):
        surcharge.plain(0.001)
        surcharge.guessing(0.003)
    surcharge.guessing(5.0)
    surcharge.plain(5.0)
    surcharge.guessing(0.003)
    assert surcharge.seconds == pytest.approx(0.002)


def test_a_step_for_comparison_is_none_with_prompts_in_it() -> None:
    speculator = Speculator(Offers(), lambda rows: 1.0, None)  # type: ignore[arg-type]
    generations: dict[Any, Any] = {0: SimpleNamespace(search=None, guess=[], tokens=[0])}
    steps(speculator, ["a"], 100, right=1)
    for _ in range(APART):
        speculator.took(1.0, speculator.ask(generations.keys(), generations, 0))  # type: ignore[arg-type]
    assert all(speculator.ask(generations.keys(), generations, 5) for _ in range(20))  # type: ignore[arg-type]
    assert not speculator.ask(generations.keys(), generations, 0)  # type: ignore[arg-type]
