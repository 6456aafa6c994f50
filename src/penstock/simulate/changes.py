"""What changes in a fleet by itself: replicas fail and restart, and are added and taken away."""

from __future__ import annotations

from math import ceil
from random import Random

from penstock.simulate.cluster import Cluster, Place, State
from penstock.simulate.fleet import Autoscale, Failure, Faults


class Failures:
    """Loses replicas as the fleet file says, for as long as there is work."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._clock = cluster.clock
        self._stopped = False
        for failure in cluster.fleet.failures:
            self._clock.at(self._clock.now + failure.at_s, self._planned, failure)
        if (faults := cluster.fleet.faults) is not None:
            for place in cluster.places:
                self._lives_on(place, faults, Random(f"{cluster.seed} faults {place.number}"))

    def stop(self) -> None:
        """No more: the load is over."""
        self._stopped = True

    def _planned(self, failure: Failure) -> None:
        if not self._stopped:
            self._lose(self._cluster.places[failure.replica], failure.down_s)

    def _lives_on(self, place: Place, faults: Faults, random: Random) -> None:
        up_s = random.expovariate(1 / faults.mean_up_s)
        self._clock.at(self._clock.now + up_s, self._fault, place, faults, random)

    def _fault(self, place: Place, faults: Faults, random: Random) -> None:
        if self._stopped:
            return
        down_s = random.expovariate(1 / faults.mean_down_s)
        self._lose(place, down_s)
        later = self._clock.now + down_s
        self._clock.at(later, self._lives_on, place, faults, random)

    def _lose(self, place: Place, down_s: float | None) -> None:
        if place.state in (State.SERVING, State.DRAINING):
            self._cluster.fail(place, down_s)


class Autoscaler:
    """Keeps as many replicas as the outstanding requests call for; see `Autoscale`."""

    def __init__(self, cluster: Cluster, scale: Autoscale) -> None:
        self._cluster = cluster
        self._scale = scale
        self._calm_since: float | None = None
        self._stopped = False
        self._later()

    def stop(self) -> None:
        """No more: the load is over."""
        self._stopped = True

    def _later(self) -> None:
        clock = self._cluster.clock
        clock.at(clock.now + self._scale.interval_s, self._look)

    def _look(self) -> None:
        if self._stopped:
            return
        cluster, scale, now = self._cluster, self._scale, self._cluster.clock.now
        there = [p for p in cluster.places if p.state in (State.STARTING, State.SERVING)]
        wanted = ceil(cluster.outstanding / scale.target)
        wanted = min(max(wanted, scale.min), scale.max)
        idle = [p for p in cluster.places if p.state is State.DOWN]
        for place in idle[: max(0, wanted - len(there))]:
            cluster.start(place, scale.start_s)
        if wanted >= len(there):
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= scale.calm_s:
            serving = [p for p in there if p.state is State.SERVING]
            # The youngest go first, and never the last that serves.
            for place in serving[max(wanted, 1) :]:
                cluster.drain(place)
            self._calm_since = None
        self._later()
