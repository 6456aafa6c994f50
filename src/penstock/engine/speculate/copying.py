"""Guesses copied from text: from the request's own, or from what was said before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping

from penstock.engine.generation import Generation
from penstock.engine.speculate.drafter import Generations
from penstock.engine.speculate.texts import BORDER, Texts
from penstock.schedule import Sequence

MOST = 16  # guesses for one step

# Past outputs are kept in two halves; when the younger one is full, the older goes.
HALF_TOKENS = 250_000

# Tokens of a text that are indexed at a time: a long prompt shall not hold up a step.
INDEXED = 256

# A chain of votes is followed while so much of the vote agrees with all of it.
LEAST_SHARE = 0.1


class _Copying(ABC):
    """Keeps the texts of running sequences; what they offer is for `_find` to say."""

    most = MOST

    def __init__(self) -> None:
        self._own: dict[Sequence, Texts] = {}
        self._found: dict[Sequence, list[int]] = {}

    def offer(self, sequence: Sequence, generation: Generation) -> list[Hashable]:
        """As `Drafter.offer`: guesses are alike when as many tokens before them matched."""
        own = self._own.setdefault(sequence, Texts())
        own.extend(generation.tokens[len(own.tokens) :])
        own.index(INDEXED)
        matched, guess = self._find(own, generation.tokens[-64:])
        self._found[sequence] = guess
        return [min(matched, 16)] * len(guess)

    def guess(self, counts: Mapping[Sequence, int], generations: Generations) -> None:
        """As `Drafter.guess`."""
        for sequence, count in counts.items():
            generations[sequence].guess = self._found[sequence][:count]

    def learn(self, sequence: Sequence, generation: Generation, right: int) -> None:
        """As `Drafter.learn`: the text itself tells next time."""
        del self._found[sequence]

    def ended(self, sequence: Sequence, generation: Generation) -> None:
        """As `Drafter.ended`."""
        self._own.pop(sequence, None)
        self._found.pop(sequence, None)

    def seconds(self, rows: int) -> float:
        """As `Drafter.seconds`: next to nothing."""
        return 0.0

    @abstractmethod
    def _find(self, own: Texts, context: list[int]) -> tuple[int, list[int]]:
        """How many of the context's last tokens were found before, and what followed them."""


class Lookup(_Copying):
    """Prompt lookup (Saxena 2023): what followed the longest like passage of the request."""

    def _find(self, own: Texts, context: list[int]) -> tuple[int, list[int]]:
        matches = list(own.matches(context))
        if not matches:
            return 0, []
        matched, place = max(matches)
        return matched, own.tokens[place : place + MOST]


class Suffix(_Copying):
    """What most often followed the longest like passage, in the request and in past outputs.

    A guess is a walk down the suffix tree of both (Oliaro et al. 2024): at each
    node the child with most places, no further than the passage is long, and only
    while a tenth of the places have followed the whole walk.
    """

    def __init__(self) -> None:
        super().__init__()
        self._young, self._old = Texts(), Texts()

    def ended(self, sequence: Sequence, generation: Generation) -> None:
        """As `Drafter.ended`; what was said is kept."""
        super().ended(sequence, generation)
        if len(self._young.tokens) > HALF_TOKENS:
            self._young, self._old = Texts(), self._young
        self._young.begin()
        self._young.extend(generation.tokens[sequence.prompt :])

    def _find(self, own: Texts, context: list[int]) -> tuple[int, list[int]]:
        for texts in (self._young, self._old):
            texts.index(INDEXED)
        matches = [
            (matched, texts.tokens, place)
            for texts in (own, self._young, self._old)
            for matched, place in texts.matches(context)
        ]
        matched = max((match[0] for match in matches), default=0)
        walk = [(tokens, place) for count, tokens, place in matches if count == matched]
        return matched, _walk(walk, min(MOST, matched))


def _walk(places: list[tuple[list[int], int]], most: int) -> list[int]:
    """Follow the most frequent next token, of equal ones that of the first place."""
    everywhere, said = len(places), list[int]()
    while places and len(said) < most:
        votes = Counter(tokens[place] for tokens, place in places)
        token, count = votes.most_common(1)[0]
        if count < LEAST_SHARE * everywhere:
            break
        said.append(token)
        places = [
            (tokens, place + 1)
            for tokens, place in places
            if tokens[place] == token and place + 1 < len(tokens) and tokens[place + 1] != BORDER
        ]
    return said
