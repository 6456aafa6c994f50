"""How much more than the demand a fleet takes, by replays."""

from __future__ import annotations

import msgspec

from penstock.plan.advice import reach
from penstock.plan.fluid import Spike, spike
from penstock.plan.question import Question
from penstock.plan.replay import Replays
from penstock.plan.search import Sized

FACTOR, SECONDS = 5.0, 60.0  # the burst that every plan is asked about: five-fold, a minute
_MOST = 2.0  # replicas' worth of more demand that is looked for


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

    factor = reach(breaks, 1 + _MOST / best.replicas, exact=1.04)
    saturated = replays.saturated(best.option, best.replicas, best.prefill)
    return Headroom(
        factor=factor,
        saturated=saturated,
        spike=spike(question.demand.rate, saturated, FACTOR, SECONDS),
    )
