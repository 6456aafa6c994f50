"""A simulation by itself: a fleet, a plan, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from penstock.predict.steptime import StepTime
from penstock.simulate.batch import Backlog
from penstock.simulate.books import Books, Watch, nanoseconds
from penstock.simulate.changes import Autoscaler, Failures
from penstock.simulate.clock import Clock
from penstock.simulate.cluster import Cluster, Place, State
from penstock.simulate.fleet import Fleet
from penstock.simulate.player import Ledger, Player
from penstock.simulate.result import ReplicaReport, Simulated
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Plan
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source
from penstock.workload.traces import Trace


class World:
    """A clock, a fleet at work, and all that changes it."""

    def __init__(
        self,
        fleet: Fleet,
        seed: int,
        *,
        steps: Sequence[StepTime] = (),
        leaps: bool = True,
        keeps_ends: bool = False,
    ) -> None:
        self.clock = Clock()
        self.cluster = Cluster(
            fleet, self.clock, seed, steps=steps, leaps=leaps, keeps_ends=keeps_ends
        )
        self.watch = Watch(self.cluster)
        self.backlog = Backlog(self.cluster, fleet.batch) if fleet.batch else None
        self._changes: list[Failures | Autoscaler] = [Failures(self.cluster)]
        if fleet.autoscale is not None:
            self._changes.append(Autoscaler(self.cluster, fleet.autoscale))

    def player(self, plan: Plan, ledger: Ledger) -> Player:
        """Who plays a plan on this fleet."""
        fleet, dice = self.cluster.fleet, Random(f"{self.cluster.seed} background")
        share = fleet.background_share
        return Player(
            plan,
            ledger,
            self.clock,
            self.cluster.send,
            page_tokens=fleet.replicas[0].page_tokens,
            background=lambda: share > 0 and dice.random() < share,
        )

    def settle(self) -> None:
        """The load is over: what is under way ends, and nothing else begins."""
        self.watch.stopped = True
        if self.backlog is not None:
            self.backlog.stop()

    def finish(self) -> None:
        """Let everything happen; every call has ended then."""
        while self.clock.turn():
            if self.watch.stopped and not self.cluster.outstanding:
                for change in self._changes:
                    change.stop()


def simulate(
    fleet: Fleet,
    plan: Plan,
    seed: int = 0,
    *,
    steps: Sequence[StepTime] = (),
    until_s: float | None = None,
    events: bool = False,
    leaps: bool = True,
) -> Simulated:
    """Play a plan on a fleet in virtual time, until every request has ended.

    The load stops at `until_s` where that is given; a closed loop or a
    session then sends no more. `steps` are step times to use instead of what
    the fleet says, one for each group of replicas. With `events` the time of
    every token is kept: eight bytes a step of each replica. `leaps` off takes every step
    by itself: the same, slower, for tests. The same fleet, plan and seed give
    the same result to the byte.

    Raises `ValueError` for a fleet of which step times, KV or links cannot be found.
    """
    started = time.perf_counter()
    world = World(fleet, seed, steps=steps, leaps=leaps, keeps_ends=events)
    books = Books(world.clock, until_s, events)
    books.on_stop = world.settle
    player = world.player(plan, books)
    player.start()
    world.finish()
    cluster = world.cluster
    end_s = max(cluster.ended_at, books.stop_ns * 1e-9)
    return Simulated(
        fleet=fleet,
        load=plan.load,
        conditions=plan.conditions,
        notes=plan.notes,
        warmup=plan.warmup,
        stop_ns=books.stop_ns,
        end_ns=nanoseconds(end_s),
        table=books.table(),
        spans=books.spans,
        series=world.watch.series(),
        replicas=[_report(place, end_s) for place in cluster.places],
        backlog=world.backlog.report(end_s) if world.backlog else None,
        wall_s=time.perf_counter() - started,
    )


def _report(place: Place, end_s: float) -> ReplicaReport:
    """What a place did until the end."""
    done = place.totals()
    paid_s = place.paid_s + (0.0 if place.state is State.DOWN else max(0.0, end_s - place.since))
    return ReplicaReport(
        number=place.number,
        role=place.role,
        paid_s=paid_s,
        busy=min(1.0, done.busy_s / paid_s) if paid_s else 0.0,
        short_of_pages=done.short_s / done.busy_s if done.busy_s else 0.0,
        steps=done.steps,
        prefill_tokens=done.prefill_tokens,
        output_tokens=done.output_tokens,
        cached_share=done.cached_tokens / done.prompt_tokens if done.prompt_tokens else None,
        preemptions=done.preemptions,
    )


def plan_of(trace: Trace, *, context: int | None = None, speed: float = 1.0) -> Plan:
    """A plan that replays a trace's arrivals, lengths and sharing, without warm-up or text."""
    nothing = Lengths(kind="uniform", a=1, b=1)
    source = Source(
        prompts=Sketches(), input_len=nothing, output_len=nothing, seed=0, context=context
    )
    return source.replay(trace, speed, warmup=0)
