"""How many guesses pay, from how often they come true and what they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

# Guesses must promise so much more speed before one is made: what was measured,
# of acceptance and of steps, is never exact.
LEAST_GAIN = 0.02

# Rows that guesses may add to a step.
MOST_ROWS = 64

# Weight of what is known of all requests when one is judged, in guesses.
PRIOR = 6.0

# Of each count when the next comes: about the last 200 guesses of a kind matter,
# and the last 30 of a request.
KEEP_KIND, KEEP_REQUEST = 0.995, 0.97

Seconds = Callable[[int], float]
Key = TypeVar("Key", bound=Hashable)


class StepTable:
    """Seconds of a step by its rows, as measured; straight lines between and beyond."""

    def __init__(self, rows: Sequence[int], seconds: Sequence[float]) -> None:
        # More rows cannot take less time: where they seemed to, something else ran.
        ordered = np.minimum.accumulate(np.array(seconds)[::-1])[::-1]
        self._each = np.interp(np.arange(rows[-1] + 1), rows, ordered).tolist()
        self._slope = float(ordered[-1] - ordered[-2]) / (rows[-1] - rows[-2])

    def __call__(self, rows: int) -> float:
        """Seconds of a step of so many rows."""
        beyond = rows - len(self._each) + 1
        return float(self._each[-1] + beyond * self._slope if beyond > 0 else self._each[rows])


class Rates:
    """How often guesses of each kind came true, once those before them did."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, tuple[float, float]] = {}
        self._requests: dict[Hashable, tuple[float, float]] = {}

    def chance(self, request: Hashable, kind: Hashable) -> float:
        """Probability that the next such guess of this request comes true."""
        right, made = self._kinds.get(kind, (1.0, 2.0))
        own_right, own_made = self._requests.get(request, (0.0, 0.0))
        return (PRIOR * right / made + own_right) / (PRIOR + own_made)

    def saw(self, request: Hashable, kind: Hashable, right: bool) -> None:
        """Count a guess that was judged."""
        known, made = self._kinds.get(kind, (1.0, 2.0))
        self._kinds[kind] = known * KEEP_KIND + right, made * KEEP_KIND + 1
        known, made = self._requests.get(request, (0.0, 0.0))
        self._requests[request] = known * KEEP_REQUEST + right, made * KEEP_REQUEST + 1

    def forget(self, request: Hashable) -> None:
        """The request is over."""
        self._requests.pop(request, None)


def lengths(
    survival: Mapping[Key, Sequence[float]],
    rows: int,
    step: Seconds,
    draft: Seconds,
    *,
    most_s: float = math.inf,
    more_s: float = 0.0,
) -> dict[Key, int]:
    """How many guesses to make for each sequence so that tokens per second are most.

    `survival` gives, for each, the probability that its first i+1 guesses all come
    true; `rows` are those of the step without guesses, each worth one token.
    `step(rows)` is the step's time in seconds, `draft(n)` that of one more guess for
    each of n sequences, and `more_s` what any guesses take besides. Nothing is promised less
    than `LEAST_GAIN` of gain, and guesses take at most `most_s` seconds.
    """
    order = sorted(
        (
            (chance, at, key)
            for key, chances in survival.items()
            for at, chance in enumerate(chances)
        ),
        key=lambda guess: (-guess[0], guess[1]),
    )[:MOST_ROWS]
    rounds: list[int] = []  # how many sequences make an i-th guess
    tokens, drafting = float(rows), 0.0
    plain_s = step(rows)
    best, best_speed = 0, (1 + LEAST_GAIN) * rows / plain_s
    for made, (chance, at, _) in enumerate(order, 1):
        if at == len(rounds):
            rounds.append(0)
        drafting += draft(rounds[at] + 1) - (draft(rounds[at]) if rounds[at] else 0.0)
        rounds[at] += 1
        tokens += chance
        seconds = step(rows + made) + drafting + more_s
        if seconds - plain_s > most_s:
            break
        if (speed := tokens / seconds) > best_speed:
            best, best_speed = made, speed
    chosen: dict[Key, int] = {}
    for _, _, key in order[:best]:
        chosen[key] = chosen.get(key, 0) + 1
    return chosen


def price(counts: Mapping[Key, int], rows: int, step: Seconds, draft: Seconds) -> float:
    """Seconds that so many guesses for each sequence add to a step of `rows` rows."""
    drafting = sum(
        draft(sum(count > at for count in counts.values()))
        for at in range(max(counts.values(), default=0))
    )
    return step(rows + sum(counts.values())) - step(rows) + drafting
