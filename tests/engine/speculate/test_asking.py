"""Whoever is asked in vain is asked less often, and still notices when guesses pay again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from penstock.engine.speculate.speculator import MOST_RESTS, Speculator


class Offers:
    """A drafter that always offers one guess to each, and counts how often it is asked."""

    most = 4

    def __init__(self) -> None:
        self.asked = 0

    def offer(self, sequence: Any, generation: Any) -> list[str]:
        self.asked += 1
        return ["kind"]

    def guess(self, counts: Any, generations: Any) -> None: ...

    def learn(self, sequence: Any, generation: Any, right: int) -> None: ...

    def ended(self, sequence: Any, generation: Any) -> None: ...

    def seconds(self, rows: int) -> float:
        return 0.1 * rows


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
