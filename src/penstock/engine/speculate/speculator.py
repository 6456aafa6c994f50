"""Speculative decoding: who guesses how many tokens in a step, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul

from penstock.engine.generation import Generation
from penstock.engine.speculate.drafter import Drafter, Generations
from penstock.engine.speculate.lengths import MOST_ROWS, Rates, Seconds, lengths, price
from penstock.engine.speculate.surcharge import Surcharge
from penstock.schedule import Sequence

# Share of the time without guesses that may go into trying whether they would
# come true by now.
TRIAL_SHARE = 0.005

# What guesses may lose however sure one is of them, in steps without any, and the part of
# what is left that one step's guesses may take. What comes true pays in what it saved.
STAKE, BET = 2.0, 1 / 3

# Steps in which nobody is asked once no guess on offer was worth its while, at most.
MOST_RESTS = 15


@dataclass(slots=True)
class Tally:
    """What guesses were worth since the engine started."""

    drafts: int = 0  # times that a sequence made guesses in a step
    made: list[int] = field(default_factory=list)  # guesses by position, first, second ...
    right: list[int] = field(default_factory=list)  # of those, that came true


class Speculator:
    """Between two steps it asks for guesses, has them made, and learns what became of them.

    `fixed` guesses a step if it is given; else as many as pay by `step`, the
    measured seconds of a step by its rows, by what they turn out to take besides, and by
    how often they came true, of this request and others.
    """

    def __init__(self, drafter: Drafter, step: Seconds, fixed: int | None) -> None:
        self.tally = Tally()
        self.drafter = drafter
        self.step = step  # seconds of a step by its rows
        self._fixed = fixed
        self._rates = Rates()
        self._surcharge = Surcharge()
        self._kinds: dict[Sequence, list[Hashable]] = {}  # of the guesses on offer
        self._stake = math.inf  # seconds that may be lost
        self._untried = 0.0  # seconds of steps in which no guess was worth its while
        self._rest = self._rests = 0  # steps in which nobody is asked: yet to come, and at a time
        self._rows = 0  # of the step
        self._pending = 0  # of them, tokens of prompts
        self._rested = 0  # rows of the step that was found not to pay
        self._pays: dict[int, bool] = {}  # by rows

    def ask(
        self, decoding: Collection[Sequence], generations: Generations, pending: int
    ) -> dict[Sequence, int]:
        """How many guesses to make for whom. `pending` prompt tokens are in the step too."""
        self._kinds = {}
        self._pending = pending
        self._rows = rows = len(decoding) + pending
        if self._fixed is None and (not self._may_pay(rows) or self._resting(rows)):
            return {}
        for sequence in decoding:
            generation = generations[sequence]
            if generation.search is None and (
                kinds := self.drafter.offer(sequence, generation)[: self._fixed]
            ):
                self._kinds[sequence] = kinds
        if self._fixed is not None or not self._kinds:
            return {sequence: len(kinds) for sequence, kinds in self._kinds.items()}
        survival = {
            sequence: list(accumulate((self._rates.chance(sequence, k) for k in kinds), mul))
            for sequence, kinds in self._kinds.items()
        }
        plain_s = self.step(rows)
        self._stake = min(self._stake, STAKE * plain_s)
        chosen = lengths(
            survival,
            rows,
            self.step,
            self.drafter.seconds,
            most_s=BET * self._stake,
            more_s=self._surcharge.seconds,
        )
        if chosen:
            self._rests = 0
            # With prompts in it a step tells nothing, so none is given for comparison.
            return {} if self._surcharge.due and not pending else chosen
        self._rest = self._rests = min(2 * self._rests + 1, MOST_RESTS)
        self._rested = rows
        return self._trial(rows)

    def _resting(self, rows: int) -> bool:
        """Whether guesses just did not pay, in no larger a step: asking takes time too."""
        if not self._rest or rows < self._rested:
            return False
        self._rest -= 1
        self._pass(rows)
        return True

    def _may_pay(self, rows: int) -> bool:
        """Whether guesses would pay in a step of so many rows if all of them came true."""
        if rows not in self._pays:
            all_right = {0: [1.0] * MOST_ROWS}
            self._pays[rows] = rows > 0 and bool(lengths(all_right, rows, self.step, _nothing))
        return self._pays[rows]

    def _trial(self, rows: int) -> dict[Sequence, int]:
        """Now and then guess once though it does not pay, to know whether it still does not."""
        trial = dict.fromkeys(self._kinds, 1)
        self._pass(rows)
        if self._price(trial) > TRIAL_SHARE * self._untried:
            return {}
        self._untried = 0.0
        return trial

    def _pass(self, rows: int) -> None:
        """A step in which no guess was worth its while."""
        self._untried += self.step(rows)
        self._stake += TRIAL_SHARE * self.step(rows)

    def guess(self, counts: dict[Sequence, int], generations: Generations) -> None:
        """Make the guesses that the plan has room for."""
        if counts:
            self.drafter.guess(counts, generations)
            self._stake -= self._price(counts)

    def took(self, seconds: float, counts: dict[Sequence, int]) -> None:
        """The step is over: what it took in all, for so many guesses."""
        if self._fixed is not None or self._pending:
            return
        over_s = seconds - self.step(self._rows)
        if counts:
            self._surcharge.guessing(over_s - self._by_table(counts))
        else:
            self._surcharge.plain(over_s)

    def _price(self, counts: dict[Sequence, int]) -> float:
        return self._by_table(counts) + self._surcharge.seconds

    def _by_table(self, counts: dict[Sequence, int]) -> float:
        return price(counts, self._rows, self.step, self.drafter.seconds)

    def learn(self, sequence: Sequence, generation: Generation, right: int) -> None:
        """So many of the sequence's guesses came true; they are done with."""
        made = len(generation.guess)
        if not made:
            return
        self.drafter.learn(sequence, generation, right)
        self._stake += right * self.step(self._rows) / self._rows
        if right < made and generation.tokens[-1] == generation.guess[right]:
            right += 1  # it ended the sequence, so it counts as its last token
        generation.guess = []
        tally = self.tally
        tally.drafts += 1
        while len(tally.made) < made:
            tally.made.append(0)
            tally.right.append(0)
        for position in range(made):
            tally.made[position] += 1
            tally.right[position] += position < right
        for position, kind in enumerate(self._kinds[sequence][: min(right + 1, made)]):
            self._rates.saw(sequence, kind, position < right)

    def ended(self, sequence: Sequence, generation: Generation) -> None:
        """The sequence has all its tokens."""
        self.drafter.ended(sequence, generation)
        self._rates.forget(sequence)


def _nothing(rows: int) -> float:
    return 0.0
