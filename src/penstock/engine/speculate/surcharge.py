"""What a step with guesses takes beyond what its rows tell."""

from __future__ import annotations

from collections import deque
from statistics import median

# Steps with guesses before one is made without, so that the two can be compared.
APART = 64

PLAIN, GUESSING = 5, 15  # steps of each kind that count, the latest


class Surcharge:
    """Learnt from steps as they come: with guesses beside those without, next to each other.

    A table of steps by rows is measured once, on short contexts, in one of the machine's
    minutes. What guesses take besides, in attention, in searching, in a row that the table
    has for nothing, is a constant here, for steps with any. Medians: what else runs on the
    machine disturbs one step, not half of them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._plain: deque[float] = deque(maxlen=PLAIN)
        self._beyond: deque[float] = deque(maxlen=GUESSING)
        self._since = 0

    @property
    def due(self) -> bool:
        """Whether a step should be without guesses, for comparison."""
        return self._since >= APART

    def plain(self, over_s: float) -> None:
        """A step without guesses took so much more than the table says, or less."""
        self._plain.append(over_s)
        self._since = 0

    def guessing(self, over_s: float) -> None:
        """So did one with guesses."""
        self._since += 1
        if self._plain:
            self._beyond.append(over_s - median(self._plain))
            self.seconds = max(0.0, median(self._beyond))
