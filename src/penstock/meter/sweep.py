"""Climbs the load until more of it gives no more, then looks closer around the bend.

A closed loop doubles the requests at once, an open loop the arrivals. What ends
the climb is said in words. Then the widest gaps beside the bend are halved.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import msgspec

from penstock.record.run import Swept
from penstock.record.stats import Interval

POINTS = 16  # of the climb at most: 1 to 32,768 at once
REFINED = 4  # points added around the bend
CLOSE = 1.25  # loads closer than this factor tell nothing new
GAIN = 0.02  # growth below this is none, however sure
PATIENCE = 2  # loads of a closed loop without growth that end its climb
SHORT = 0.90  # of what was offered: an open loop answered less than this is past saturation
BLOWN_UP = 10.0  # times the shortest wait seen
FAILURES = 0.10  # of the requests


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What an operating point showed, as far as the climb asks."""

    load: float  # requests at once, or requests/s
    throughput: float  # output tokens/s, or requests/s where tokens are unknown
    ci95: Interval | None  # of the throughput
    answered: float  # requests/s
    wait_s: float | None  # median, from the schedule to the first token
    failed: float  # share of the requests


async def sweep(
    measure: Callable[[float], Awaitable[Seen | None]], start: float, *, whole: bool
) -> Swept:
    """Measure operating points from `start` up; `whole` climbs a closed loop.

    An open loop that is past saturation at once climbs down. `measure` returns
    None when there is to be no further point, because the run was interrupted
    or has spent its tokens.
    """
    edge = flat if whole else overloaded
    seen: list[Seen] = []
    load = start
    while len(seen) < POINTS:
        point = await measure(load)
        if point is None:
            return Swept(stopped="ended early: interrupted, or out of tokens (--max-tokens-total)")
        seen.append(point)
        best, why = edge(seen)
        if why is not None and best is not None:
            break
        load = load * 2 if why is None else load / 2
    else:
        return Swept(stopped=f"no saturation was found with {POINTS} points", best=best)
    for _ in range(REFINED):
        between = gap(sorted(s.load for s in seen), best, whole)
        point = None if between is None else await measure(between)
        if point is None:
            break
        seen.append(point)
        best = edge(seen)[0] or best
    return Swept(stopped=why, best=best)


def overloaded(seen: Sequence[Seen]) -> tuple[float | None, str | None]:
    """The highest load of an open loop below the first that is past saturation, and why that is.

    The load is None if none is below, the reason if none is past.
    """
    waits = [s.wait_s for s in seen if s.wait_s is not None]
    best = None
    for s in sorted(seen, key=lambda s: s.load):
        at = f"at {s.load:.3g} requests/s "
        if s.failed > FAILURES:
            return best, at + f"{s.failed:.0%} of the requests failed"
        if s.answered < SHORT * s.load:
            return best, at + f"the server answered {s.answered:.3g} requests/s"
        if s.wait_s is not None and s.wait_s > BLOWN_UP * min(waits):
            return best, at + (
                f"the median wait for the first token was {s.wait_s:.3g} s, "
                f"{min(waits):.3g} s at best"
            )
        best = s.load
    return best, None


def flat(seen: Sequence[Seen]) -> tuple[float | None, str | None]:
    """The load of a closed loop beyond which throughput does not grow, and the proof of that.

    The reason is None until `PATIENCE` loads lie beyond it.
    """
    by_load = sorted(seen, key=lambda s: s.load)
    at, best = next(
        (i, s) for i, s in enumerate(by_load) if not any(grew(s, later) for later in by_load[i:])
    )
    last = by_load[-1]
    if last.failed > FAILURES:
        return best.load, f"{last.failed:.0%} of the requests failed with {last.load:g} at once"
    if len(by_load) - at <= PATIENCE:
        return best.load, None
    return best.load, (
        f"beyond {best.load:g} at once throughput does not grow beyond its interval: "
        f"{best.throughput:.4g} per second there, {last.throughput:.4g} with {last.load:g}"
    )


def grew(before: Seen, after: Seen) -> bool:
    """Whether throughput grew by more than `GAIN`, and by more than both intervals allow.

    Half-widths of independent intervals add up as the root of their squares.
    """
    halves = [(s.ci95[1] - s.ci95[0]) / 2 for s in (before, after) if s.ci95 is not None]
    return after.throughput - before.throughput > max(GAIN * before.throughput, math.hypot(*halves))


def gap(loads: Sequence[float], around: float, whole: bool) -> float | None:
    """The middle of the gap above a load, or else below it, where that is worth a point."""
    at = loads.index(around)
    for low, high in reversed(list(pairwise(loads[max(0, at - 1) : at + 2]))):
        middle = math.sqrt(low * high)
        if high / low > CLOSE and not (whole and round(middle) in (low, high)):
            return float(round(middle)) if whole else middle
    return None
