"""Searches for capacity in virtual time, on a queue whose capacity is known."""

import math
import random
import statistics

import pytest

from penstock.meter.bench import bench
from penstock.meter.target import TargetInfo
from penstock.record.record import Outcome
from penstock.record.slo import parse_slos
from penstock.simulate.clock import Clock
from penstock.simulate.player import Player
from penstock.simulate.target import SimTarget
from penstock.workload.arrivals import Poisson
from tests.meter.test_bench import options

# One at a time, 20 a second on average: 90 % end within 0.3 s up to so many a second (M/M/1).
SERVICE_S, LIMIT_S = 0.05, 0.3
TRUTH = 1 / SERVICE_S - math.log(10) / LIMIT_S


class Queue:
    """Serves one call at a time, for exponential times; what `SimTarget` asks of a world."""

    def __init__(self, seed):
        self.clock, self.cluster, self.watch, self.stopped = Clock(), self, self, False
        self._dice, self._free = random.Random(seed), 0.0

    def player(self, plan, ledger):
        never = {"page_tokens": 16, "background": lambda: False}
        return Player(plan, ledger, self.clock, self.send, **never)

    def send(self, call):
        began = max(self._free, self.clock.now)
        self._free = began + self._dice.expovariate(1 / SERVICE_S)
        self.clock.at(self._free, self._over, call)

    def _over(self, call):
        call.started = call.first = call.last = self.clock.now
        call.said = call.output
        call.finish(Outcome.FINISHED, self.clock.now)

    def settle(self):
        self.stopped = True

    def series(self, base_ns=0):
        return []


class QueueTarget(SimTarget):
    """A queue that begins each operating point anew."""

    def __init__(self, seed):
        self.seed, self.series, self._base_ns, self._lives = seed, [], 0, 0
        self._world = Queue(seed)
        self.info = TargetInfo(
            kind="sim", name="a queue", model="none", forces_length=True, reads_sketches=True
        )

    def begin(self):
        self._base_ns = self.now_ns() + 10**9
        self._lives += 1
        self._world = Queue(f"{self.seed} {self._lives}")
        return self._world


async def capacity(seed):
    asked = options(
        arrivals=(Poisson(6.0),),
        duration_s=40,
        search=("capacity",),
        slos=tuple(parse_slos(f"e2e.p90<{LIMIT_S}s")),
        seed=seed,
    )
    return (await bench(QueueTarget(seed), asked)).summary["capacity"]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_searches_are_right_on_average_and_their_intervals_hold_the_truth():
    found = [c for c in [await capacity(seed) for seed in range(100)] if c["ci95"] is not None]
    assert len(found) >= 92  # the others say that their trials do not settle it
    error = [c["load"] - TRUTH for c in found]
    assert abs(statistics.mean(error)) < 3 * statistics.stdev(error) / math.sqrt(len(error))
    held = sum(c["ci95"][0] <= TRUTH <= c["ci95"][1] for c in found)
    assert held >= 0.88 * len(found)


async def test_a_search_comes_near_the_truth():
    found = await capacity(1)
    assert found["load"] == pytest.approx(TRUTH, rel=0.15)
