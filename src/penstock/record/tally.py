"""What many answers to one question come to: the vote, and what fewer of them would have said.

An answer is told by its key, what votes are counted on: a number, a text without
its layout. None says nothing and has no vote.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Tally(Generic[K]):
    """The votes for each key, most first; of equally many the one that was said first."""

    votes: dict[K, int]
    answers: int  # those that say nothing, too

    @property
    def winner(self) -> K | None:
        """What most say (self-consistency, Wang et al. 2022); None if nobody says anything."""
        return next(iter(self.votes), None)

    @property
    def share(self) -> float:
        """The winner's votes among all answers, silent ones counted against it."""
        return max(self.votes.values(), default=0) / self.answers if self.answers else 0.0

    @property
    def tied(self) -> tuple[K, ...]:
        """Keys that have as many votes as the winner and were said after it."""
        most = max(self.votes.values(), default=0)
        return tuple(key for key, votes in self.votes.items() if votes == most)[1:]


def tally(answers: Iterable[K | None]) -> Tally[K]:
    """Count the votes of answers in their order, which is what settles a tie.

    Samples are drawn alike, so who came first is as fair as a lot.
    """
    said = list(answers)
    votes = Counter(key for key in said if key is not None)
    return Tally(dict(votes.most_common()), len(said))


def any_right(right: int, answers: int, k: int) -> float:
    """Chance that one of k answers is right, drawn without replacement from those given.

    1 - C(n - c, k) / C(n, k): pass@k without bias (Chen et al. 2021, eq. 1).
    Raises `ValueError` unless 1 <= k <= answers.
    """
    _check(k, answers)
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def majority_right(
    answers: Sequence[Hashable],
    right: Sequence[bool],
    k: int,
    *,
    rng: np.random.Generator,
    shuffles: int = 100,
) -> float:
    """Chance that what most of k answers say is right, drawn likewise; ties as in `tally`.

    `right` says it of each answer. The answers are shuffled so many times and each
    order is cut into n // k subsets: every subset is as likely as another, so
    the mean has no bias, and for k = 1 it is exact.
    Raises `ValueError` unless 1 <= k <= len(answers).
    """
    n = len(answers)
    _check(k, n)
    kinds = {key: code for code, key in enumerate(dict.fromkeys(answers)) if key is not None}
    silent = len(answers)  # no kind has this code
    codes = np.array([kinds.get(key, silent) for key in answers])  # [n]
    order = rng.permuted(np.tile(np.arange(n), (shuffles, 1)), axis=1)
    subsets = order[:, : n // k * k].reshape(-1, k)  # [draws, k], places in `answers`
    votes = _votes(codes[subsets], silent)
    first = votes.argmax(axis=1)  # the first of those with the most votes
    rows = np.arange(len(subsets))
    won = np.asarray(right)[subsets[rows, first]] & (votes[rows, first] > 0)
    return float(won.mean())


def _votes(codes: NDArray[np.int64], silent: int) -> NDArray[np.int64]:
    """How many in each row [draws, k] say the same as each of them; 0 for the silent."""
    draws, width = len(codes), silent + 1
    cells = np.arange(draws)[:, None] * width + codes
    counts = np.bincount(cells.ravel(), minlength=draws * width).reshape(draws, width)
    counts[:, silent] = 0
    return np.take_along_axis(counts, codes, axis=1)


def _check(k: int, answers: int) -> None:
    if not 1 <= k <= answers:
        raise ValueError(f"{k} of {answers} answers cannot be drawn; take 1 to {answers}.")
