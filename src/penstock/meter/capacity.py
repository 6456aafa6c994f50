"""Searches for capacity at SLO: a bracket first, then trials at loads fixed beforehand.

Every trial is a load offered afresh, and is random: near capacity one trial
passes where the next one fails. So the bracket, found by doubling and
bisection, only says where to look, and its trials are not used again. The
estimate comes from a design around it, run in random order (`record.capacity`).
Bisection under noise has its own literature (Waeber, Frazier & Henderson, SIAM
J. Control Optim. 51 (2013)); it wants the chance of a wrong answer to be known
at every load, which requests that queue behind each other do not give.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import numpy as np

from penstock.record.capacity import Trial, estimate

SPREAD = 0.10  # of the estimate: loads lie up to this far from it, and the first bracket is as wide
REPEATS = 2  # trials at each load of a design
DESIGNS = 4  # how often the design may be moved until it holds the crossing
CLIMBS = 24  # doublings, or halvings, in search of a bracket


class Unsettled(Exception):
    """No capacity can be stated; the message says why and what to do."""


async def find(
    trial: Callable[[float, bool], Awaitable[Trial]],
    start: float,
    *,
    whole: bool,
    seed: int = 0,
) -> list[Trial]:
    """Run the trials, and return those that `estimate` may use.

    `trial` takes the load, and whether the trial is one of those. `start` is
    the first load; `whole` keeps loads to whole numbers (slots of a closed
    loop). Raises `Unsettled` if no load passes, or none fails.
    """
    low, high = await _bracket(trial, start, whole)
    centre, rng, trials = math.sqrt(low * high), np.random.default_rng(seed), list[Trial]()
    for _ in range(DESIGNS):
        for load in rng.permutation(np.repeat(_design(centre, whole), REPEATS)).tolist():
            trials.append(await trial(load, True))
        found = estimate(trials)
        if found.load is not None and found.ci95 is not None:
            if abs(found.load / centre - 1) <= 1.5 * SPREAD:
                break
            centre = min(max(found.load, 0.8 * centre), 1.25 * centre)
        else:
            passed = sum(t.passes() for t in trials) > len(trials) / 2
            centre *= 1 + SPREAD if passed else 1 - SPREAD
    return trials


async def _bracket(
    trial: Callable[[float, bool], Awaitable[Trial]], start: float, whole: bool
) -> tuple[float, float]:
    """A load that passed and a higher one that failed, close together."""
    low, high, load = 0.0, math.inf, start
    for _ in range(CLIMBS):
        if (await trial(load, False)).passes():
            low = load
        else:
            high = load
        if whole and high <= 1:
            raise Unsettled("the limits are missed even with one request at a time")
        if low and math.isfinite(high):
            break
        load = max(1.0, load // 2) if whole and not low else load * 2 if low else load / 2
    else:
        extreme = f"met even at {low:g}" if low else f"missed even at {high:g}"
        raise Unsettled(f"the limits are {extreme}: they do not depend on the load")
    while high > low * (1 + SPREAD) and not (whole and high - low <= 1):
        middle = math.sqrt(low * high)
        if whole:
            middle = min(max(float(round(middle)), low + 1), high - 1)
        if (await trial(middle, False)).passes():
            low = middle
        else:
            high = middle
    return low, high


def _design(centre: float, whole: bool) -> list[float]:
    """Loads around the centre, most of them below: above, trials say less and less."""
    step = SPREAD / 2 * centre
    if not whole:
        return [centre + k * step for k in (-2.0, -1.2, -0.4, 0.4, 1.2)]
    step = max(1.0, round(step))
    return sorted({max(1.0, round(centre) + k * step) for k in (-2, -1, 0, 1, 2)})
