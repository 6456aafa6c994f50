"""What guesses the tokens to come."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol

from penstock.engine.generation import Generation
from penstock.schedule import Sequence

Generations = Mapping[Sequence, Generation]


class Drafter(Protocol):
    """A source of guesses. Whatever it says, the text stays the same; good ones save steps."""

    most: int  # guesses it can make for one sequence in one step

    def offer(self, sequence: Sequence, generation: Generation) -> list[Hashable]:
        """Say how many guesses it has, by the kind of each.

        Guesses of one kind come true about equally often, once those before them did.
        """

    def guess(self, counts: Mapping[Sequence, int], generations: Generations) -> None:
        """Set the `guess` of each of these generations, to so many tokens or fewer."""

    def learn(self, sequence: Sequence, generation: Generation, right: int) -> None:
        """Of the sequence's guesses, so many came true."""

    def ended(self, sequence: Sequence, generation: Generation) -> None:
        """The sequence has all its tokens."""

    def seconds(self, rows: int) -> float:
        """What one more guess for each of so many sequences takes."""
