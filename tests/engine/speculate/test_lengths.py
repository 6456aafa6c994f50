"""How many guesses: against trying every number, and where they must not pay."""

from __future__ import annotations

import itertools
import random

import pytest

from penstock.engine.speculate.lengths import LEAST_GAIN, Rates, StepTable, lengths, price


def free(rows: int) -> float:
    return 0.0


def speed(chosen, survival, rows, step, draft) -> float:
    tokens = rows + sum(sum(survival[key][:count]) for key, count in chosen.items())
    counts = list(chosen.values())
    rounds = [sum(c > at for c in counts) for at in range(max(counts, default=0))]
    return tokens / (step(rows + sum(counts)) + sum(map(draft, rounds)))


@pytest.mark.parametrize("seed", range(30))
def test_no_other_choice_of_lengths_is_faster(seed: int) -> None:
    rng = random.Random(seed)
    step = StepTable([1, 2, 4, 8, 16], sorted(rng.uniform(1, 4) for _ in range(5)))
    cost = rng.choice([0.0, 0.05])

    def draft(rows: int) -> float:
        return cost * rows  # each guess costs the same: then the likeliest go first

    survival = {}
    for key in range(3):
        chances = [rng.random() for _ in range(3)]
        survival[key] = list(itertools.accumulate(chances, lambda a, b: a * b))
    chosen = lengths(survival, 3, step, draft)
    best = max(
        speed(dict(enumerate(counts)), survival, 3, step, draft)
        for counts in itertools.product(range(4), repeat=3)
    )
    none = speed({}, survival, 3, step, draft)
    if best > (1 + LEAST_GAIN) * none:
        assert speed(chosen, survival, 3, step, draft) == pytest.approx(best)
    else:
        assert chosen == {}


def test_where_every_row_costs_its_time_nothing_is_guessed() -> None:
    assert lengths({0: [0.99, 0.98]}, 8, float, free) == {}


def test_where_rows_are_free_all_are_guessed_and_a_dear_draft_model_none() -> None:
    survival = {0: [0.9, 0.8], 1: [0.5, 0.1]}
    assert lengths(survival, 2, lambda rows: 1.0, free) == {0: 2, 1: 2}
    assert lengths(survival, 2, lambda rows: 1.0, lambda rows: 1.0) == {}


def test_guesses_take_no_more_than_they_may() -> None:
    survival = {0: [0.9, 0.8, 0.7], 1: [0.85, 0.5]}

    def step(rows: int) -> float:
        return 10.0 + 0.5 * rows

    def draft(rows: int) -> float:
        return 1.0 + 0.1 * rows

    assert price({0: 2, 1: 1}, 2, step, draft) == pytest.approx(3 * 0.5 + 1.2 + 1.1)
    found = [lengths(survival, 2, step, draft, most_s=most_s) for most_s in (1.0, 1.7, 5.0, 100.0)]
    assert found[0] == {}
    assert found[1] == {0: 1}
    assert [price(each, 2, step, draft) for each in found[1:3]] == sorted(
        price(each, 2, step, draft) for each in found[1:3]
    )
    assert price(found[2], 2, step, draft) <= 5.0
    assert sum(found[2].values()) < sum(found[3].values())


def test_a_table_never_falls_and_goes_on_beyond_its_end() -> None:
    table = StepTable([1, 2, 4], [3.0, 2.0, 4.0])
    assert [table(n) for n in (1, 2, 3, 4, 6)] == [2.0, 2.0, 3.0, 4.0, 6.0]


def test_rates_follow_the_kind_and_then_the_request() -> None:
    rates = Rates()
    for _ in range(300):
        rates.saw("one", 5, True)
        rates.saw("one", 2, False)
    assert rates.chance("new", 5) > 0.95
    assert rates.chance("new", 2) < 0.05
    for _ in range(60):
        rates.saw("unlucky", 5, False)
    assert rates.chance("unlucky", 5) < 0.3 < rates.chance("new", 5)
