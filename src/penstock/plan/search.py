"""The cheapest fleets that hold the limits: the estimate says where to look, replays settle it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from penstock.plan.options import Option
from penstock.plan.replay import Replayed

SETTLED = 4  # fleets that are replayed at most, beside the cheapest of each hardware ...
SLACK = 1.15  # ... of those that the estimate puts within this of the cheapest settled one

Replayer = Callable[[Option, int, int], Replayed]  # so many replicas, so many for prompts alone


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that holds the limits when the demand is replayed, as one replica less does not."""

    option: Option
    replicas: int
    prefill: int
    replayed: Replayed
    rate: float  # requests/s of the demand

    @property
    def usd_per_hour(self) -> float:
        """Of the whole fleet."""
        return (self.replicas + self.prefill) * self.option.candidate.usd_per_hour

    def usd_at(self, rate: float) -> float:
        """Of as many replicas as another rate would need, in requests/s."""
        counts = [rate / self.carries]
        if self.option.prompts is not None:
            counts.append(rate / between(self.option.prompts.rate, self.rate, self.prefill))
        return sum(math.ceil(n - 1e-9) for n in counts) * self.option.candidate.usd_per_hour

    @property
    def carries(self) -> float:
        """Requests/s of one replica: the estimate, kept within what the replays showed."""
        return between(self.option.flow.rate, self.rate, self.replicas)

    @property
    def spare(self) -> float:
        """About so many times the demand is what it carries."""
        return self.carries * self.replicas / self.rate


def settle(found: Sequence[Option], rate: float, replay: Replayer) -> list[Sized]:
    """The options that may be the cheapest, each sized by replays, by cost.

    `found` is in order of cost. Of each hardware one is settled, for the comparison.
    """
    settled: list[Sized] = []
    for option in found:
        cheapest = min((sized.usd_per_hour for sized in settled), default=math.inf)
        near = len(settled) < SETTLED and option.usd_per_hour <= SLACK * cheapest
        new = all(sized.option.price != option.price for sized in settled)
        if (near or new) and (sized := size(option, rate, replay)) is not None:
            settled.append(sized)
    return sorted(settled, key=lambda sized: sized.usd_per_hour)  # stable: as ranked before


def size(option: Option, rate: float, replay: Replayer) -> Sized | None:
    """The fewest replicas of an option that hold the limits; of a split one, with none to spare.

    None where twice what the estimate says, and some, do not.
    """
    known: dict[tuple[int, int], Replayed] = {}

    def holds(replicas: int, prefill: int) -> bool:
        key = (replicas, prefill)
        if key not in known:
            known[key] = replay(option, replicas, prefill)
        return known[key].met

    replicas, prefill = option.replicas, option.prefill
    most = 2 * max(replicas, prefill) + 4
    if prefill:
        more = least(lambda k: holds(replicas + k, prefill + k), 0, most, low=0)
        if more is None:
            return None
        full, prefill = replicas + more, prefill + more
        replicas = least(lambda r: holds(r, prefill), full, full) or full
        prefill = least(lambda p: holds(replicas, p), prefill, prefill) or prefill
    else:
        found = least(lambda r: holds(r, 0), replicas, most)
        if found is None:
            return None
        replicas = found
    return Sized(
        option=option,
        replicas=replicas,
        prefill=prefill,
        replayed=known[replicas, prefill],
        rate=rate,
    )


def between(estimate: float, rate: float, replicas: int) -> float:
    """What one replica carries where so many carry the rate and one less does not."""
    most = rate / (replicas - 1) * (1 - 1e-6) if replicas > 1 else math.inf
    return min(max(estimate, rate / replicas), most)


def least(holds: Callable[[int], bool], guess: int, high: int, low: int = 1) -> int | None:
    """The least n in [low, high] that holds, from a guess outwards in doubling strides.

    Where n holds, more do. None where `high` does not.
    """
    fails, works, stride = low - 1, high + 1, 1  # what lies outside is not asked
    at = guess
    while works - fails > 1:
        if holds(at):
            works = at
            at = max(works - stride, fails + 1) if fails == low - 1 else (works + fails) // 2
        else:
            fails = at
            at = min(fails + stride, works - 1) if works == high + 1 else (works + fails) // 2
        stride *= 2
    return works if works <= high else None
