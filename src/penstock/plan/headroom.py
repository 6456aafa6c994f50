"""How much more than the demand a fleet takes, by replays."""

from __future__ import annotations

import msgspec

from penstock.plan.advice import reach
from penstock.plan.fluid import Spike, spike
from penstock.plan.question import Question
from penstock.plan.replay import Replays
from penstock.plan.search import Sized

FACTOR, SECONDS = 5.0, 60.0  # the burst that every plan is asked about: five-fold, a minute
_NEAR, _MOST, _EXACT = 1.15, 30.0, 1.04  # of the estimate; of the demand; of the answer


class Headroom(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet takes beyond its demand.

    `factor` times the demand still hold the limits. `saturated` is the rate,
    in requests/s, at which it serves an endless queue.
    """

    factor: float
    saturated: float
    spike: Spike


def headroom(best: Sized, question: Question, replays: Replays) -> Headroom:
    """Look for the highest demand that the fleet still takes, and let it work through a queue."""

    def breaks(factor: float) -> bool:
        return not replays(best.option, best.replicas, best.prefill, factor).met

    demand = question.demand
    guess = best.spare  # it held at 1
    low, high = 1.0, guess * _NEAR
    while high < _MOST and not breaks(high):
        low, high = high, high * _NEAR
    if low == 1 and guess / _NEAR > 1 and not breaks(guess / _NEAR):
        low = guess / _NEAR
    factor = reach(breaks, low, high, _EXACT)
    saturated = replays.saturated(best.option, best.replicas, best.prefill)
    return Headroom(
        factor=factor,
        saturated=saturated,
        spike=spike(demand.rate, saturated, FACTOR, SECONDS),
    )
