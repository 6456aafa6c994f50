"""One answer out of many choices: what most of them say, or what a verifier likes best.

    (completion,) = llm.generate([prompt], SamplingParams(n=64, temperature=0.8))
    vote = self_consistency(completion, answer=lambda text: find_number(text))

Imports no tensor library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from penstock.record.tally import Tally, tally

if TYPE_CHECKING:
    from penstock.engine.llm import Choice, Completion

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Vote(Generic[K]):
    """What the choices of one prompt say together.

    `choice` is the first that gave the winning answer; None where none gave any.
    """

    choice: Choice | None
    tally: Tally[K]

    @property
    def key(self) -> K | None:
        """The winning answer."""
        return self.tally.winner

    @property
    def share(self) -> float:
        """Its share of all choices, those without an answer counted against it."""
        return self.tally.share

    @property
    def tied(self) -> tuple[K, ...]:
        """Answers with as many votes, given by later choices."""
        return self.tally.tied


@dataclass(frozen=True, slots=True)
class Best:
    """The choice that a verifier scored highest, and every choice's score.

    Of equal scores the earliest wins; `tied` counts the later ones. The score of
    a choice that failed is None; `choice` is None where all did.
    """

    choice: Choice | None
    scores: list[float | None]
    tied: int


def self_consistency(completion: Completion, answer: Callable[[str], K | None]) -> Vote[K]:
    """Let the choices of a completion vote (Wang et al. 2022).

    `answer` finds in a choice's text what votes are counted on, None if it has none:
    a text that `max_tokens` cut off among them, which only it can tell. A
    choice that failed has no vote.
    """
    keys = [answer(c.text) if _ended(c) else None for c in completion.choices]
    counted = tally(keys)
    first = None if counted.winner is None else completion.choices[keys.index(counted.winner)]
    return Vote(first, counted)


def best_of(completion: Completion, score: Callable[[str], float]) -> Best:
    """Choose by a verifier: a score, more is better, or True and False.

    Raises `ValueError` for a score that is not a number.
    """
    scores = [float(score(c.text)) if _ended(c) else None for c in completion.choices]
    known = [value for value in scores if value is not None]
    for place, value in enumerate(scores):
        if value is not None and math.isnan(value):
            raise ValueError(f"score of choice {place} is not a number (NaN); return any other.")
    if not known:
        return Best(None, scores, 0)
    top = max(known)
    return Best(completion.choices[scores.index(top)], scores, known.count(top) - 1)


def _ended(choice: Choice) -> bool:
    return choice.finish_reason in ("stop", "length")
