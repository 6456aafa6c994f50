"""KV on its way from prefill replicas to decode replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from penstock.simulate.clock import Clock
from penstock.simulate.fleet import Fleet
from penstock.simulate.machine import kv_bytes_per_token


class Links:
    """Each replica has a link with a rate in each direction; transfers on a link queue up.

    A transfer takes the slower of its two ends' rates, and both ends for as
    long; it begins when both are free. None of it overlaps with the prefill.
    """

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._clock = clock
        self._latency_s = fleet.split.latency_s
        self._rates: list[float] = []
        self._token_bytes = 0.0
        for group in fleet.replicas:
            if group.link_bytes_per_s is None:
                raise ValueError(
                    f"how fast KV leaves or reaches the {group.role} replicas is not known; give "
                    "their link_bytes_per_s"
                )
            self._rates += [group.link_bytes_per_s] * group.count
            if group.role == "prefill":
                self._token_bytes = kv_bytes_per_token(group)
        self._free: defaultdict[tuple[str, int], float] = defaultdict(float)
        self.bytes = 0.0
        self.wait_s = 0.0  # that transfers waited for a link, in all

    def transfer(
        self, tokens: int, source: int, target: int, then: Callable[..., None], *given: Any
    ) -> None:
        """Send the KV of so many tokens from replica to replica, then call `then`."""
        ends, now = (("from", source), ("to", target)), self._clock.now
        begin = max(now, *(self._free[end] for end in ends))
        size = tokens * self._token_bytes
        over = begin + size / min(self._rates[source], self._rates[target])
        for end in ends:
            self._free[end] = over
        self.bytes += size
        self.wait_s += begin - now
        self._clock.at(over + self._latency_s, then, *given)
