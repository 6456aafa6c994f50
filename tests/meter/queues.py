"""Simulated servers whose capacity is known, as trials of a load."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import numpy as np

from penstock.record.capacity import Trial

SHARE = 0.99


def single_server(
    rate: float, limit_s: float, seconds: float, seed: int
) -> tuple[float, Callable[[float, bool], Awaitable[Trial]]]:
    """One server, Poisson arrivals, exponential service at `rate`: M/M/1, first come first served.

    The time from arrival to end is exponential with rate - load, so a share q
    ends within the limit up to a load of rate + ln(1 - q) / limit. Returns that
    load, and what a trial of `seconds` gives, a tenth of it warm-up.
    """
    rng = np.random.default_rng(seed)

    async def trial(load: float, designed: bool) -> Trial:
        arrived = np.cumsum(rng.exponential(1 / load, int(load * seconds)))
        needs = rng.exponential(1 / rate, len(arrived))
        free, late = 0.0, 0
        warmup = len(arrived) // 10
        for i, (at, need) in enumerate(zip(arrived.tolist(), needs.tolist(), strict=True)):
            free = max(free, at) + need
            late += i >= warmup and free - at > limit_s
        return Trial(load, len(arrived) - warmup, {SHARE: late})

    return rate + math.log(1 - SHARE) / limit_s, trial


def cliff(at: float, requests: int = 200) -> Callable[[float, bool], Awaitable[Trial]]:
    """Serves everybody up to a load, and beyond it nobody."""

    async def trial(load: float, designed: bool) -> Trial:
        return Trial(load, requests, {SHARE: 0 if load <= at else requests})

    return trial
