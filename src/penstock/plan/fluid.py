"""A spike as water: what runs in above what runs out piles up, and drains afterwards.

The simplest honest answer to "what does a spike do": arrivals and service as
flows, no chance in either (Newell, Applications of Queueing Theory, 1982,
ch. 2). It holds where the queue is long beside what is in service.
"""

from __future__ import annotations

import math

import msgspec


class Spike(msgspec.Struct, frozen=True, kw_only=True):
    """What a burst of traffic leaves behind; times in seconds, rates in requests/s.

    `wait_s` is the longest wait in the queue, of whoever came last in the
    burst. `recovery_s` counts from the end of the burst until the queue is
    empty; infinite where the fleet cannot even carry what comes afterwards.
    """

    factor: float  # of the rate before and after
    seconds: float
    backlog: float  # requests in the queue when the burst ends
    wait_s: float
    recovery_s: float


def spike(rate: float, capacity: float, factor: float, seconds: float) -> Spike:
    """A burst of `factor` times the rate, for so long, on a fleet that serves `capacity`.

    `capacity` is the rate at which a fleet finishes requests that wait in an
    endless queue, which is more than what it carries within its limits. The
    queue grows by factor · rate - capacity a second and drains by capacity -
    rate. Raises `ValueError` naming what is not above zero.
    """
    for name, value in (
        ("rate", rate),
        ("capacity", capacity),
        ("factor", factor),
        ("seconds", seconds),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value:g} of a spike must be above zero")
    backlog = max(0.0, (factor * rate - capacity) * seconds)
    drain = capacity - rate
    recovery = 0.0 if backlog == 0 else math.inf if drain <= 0 else backlog / drain
    return Spike(
        factor=factor,
        seconds=seconds,
        backlog=backlog,
        wait_s=backlog / capacity,
        recovery_s=recovery,
    )
