"""The simulator's promises on random fleets under random loads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.schedule import Policy, Scheduler
from penstock.simulate import Fleet, Simulated, simulate
from penstock.simulate.cluster import Cluster
from penstock.simulate.replica import Replica
from penstock.workload.plan import Plan
from tests.simulate import test_cluster, test_replica
from tests.simulate.worlds import Linear, check, fleets, plans

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def play(fleet: Fleet, plan: Plan, **more) -> Simulated:
    # Step times of no round number, so that no two things happen at one moment by chance.
    steps = [Linear(0.0081373 + 0.0003 * i, 2.13e-5) for i in range(len(fleet.replicas))]
    return simulate(fleet, plan, seed=5, steps=steps, until_s=60.0, **more)


@QUICK
@given(fleet=fleets(), plan=plans())
def test_one_end_each_and_the_books_balance(fleet: Fleet, plan: Plan) -> None:
    seen: list[Replica] = []
    with pytest.MonkeyPatch.context() as patch:
        settle = Replica._settle

        def checked(self: Replica, plan, now) -> None:
            settle(self, plan, now)
            self.scheduler.check()
            seen.append(self)

        patch.setattr(Replica, "_settle", checked)
        check(play(fleet, plan))
    for replica in seen:
        if replica.scheduler.policy.kv_cache and not replica.calls:
            assert replica._context == 0
            assert replica.pending_tokens == 0


@QUICK
@given(fleet=fleets(), plan=plans())
def test_leaping_gives_what_walking_gives(fleet: Fleet, plan: Plan) -> None:
    leapt, walked = (play(fleet, plan, leaps=leaps, events=True) for leaps in (True, False))
    # Rows come as requests end: two that end within a rounding of each other may change places.
    tables = [played.table.sort_by("request_id") for played in (leapt, walked)]
    for name in leapt.table.column_names:
        a, b = (table.column(name) for table in tables)
        if name.endswith("_ns"):
            assert np.allclose(a.to_numpy(), b.to_numpy(), rtol=0, atol=1000, equal_nan=True), name
        else:
            assert a.equals(b), name
    records = [sorted(played.records(), key=lambda r: r.request_id) for played in (leapt, walked)]
    for one, other in zip(*records, strict=True):
        assert len(one.event_ns) == len(other.event_ns) == one.output_tokens
        assert np.allclose(one.event_ns, other.event_ns, rtol=0, atol=1000)
    for one, other in zip(leapt.replicas, walked.replicas, strict=True):
        assert one.steps == other.steps
        assert one.output_tokens == other.output_tokens


@QUICK
@given(fleet=fleets(), plan=plans())
def test_equal_seeds_give_equal_results(fleet: Fleet, plan: Plan) -> None:
    one, other = play(fleet, plan), play(fleet, plan)
    assert one.table.equals(other.table)
    assert one.summary() == other.summary()
    assert one.series == other.series


@QUICK
@given(fleet=fleets(), plan=plans(), seed=st.integers(0, 3))
def test_events_lie_between_first_and_last(fleet: Fleet, plan: Plan, seed: int) -> None:
    for record in play(fleet, plan, events=True).records():
        assert record.event_ns == sorted(record.event_ns)
        if record.event_ns:
            assert record.event_ns[0] == record.first_ns
            assert record.event_ns[-1] == record.last_ns


def said_is_forgotten_on_failure(patch: pytest.MonkeyPatch) -> None:
    again = Cluster._again

    def anew(self: Cluster, call, number) -> None:
        call.said = 0
        again(self, call, number)

    patch.setattr(Cluster, "_again", anew)


def ended_twice(patch: pytest.MonkeyPatch) -> None:
    refuse = Cluster._refuse

    def both(self: Cluster, call, error) -> None:
        refuse(self, call, error)
        call.finish("failed", self.clock.now, error)
        call.finish("failed", self.clock.now, error)

    patch.setattr(Cluster, "_refuse", both)


def cut_a_step_late(patch: pytest.MonkeyPatch) -> None:
    steps_in = Replica._steps_in
    patch.setattr(Replica, "_steps_in", lambda self, past: steps_in(self, past) + 1)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (said_is_forgotten_on_failure, test_cluster.test_a_lost_replicas_requests_go_on_elsewhere),
        (ended_twice, test_cluster.test_the_door_refuses_with_429_and_counts),
        (cut_a_step_late, test_replica.test_a_newcomer_waits_for_the_step_under_way),
    ],
)
def test_a_fault_does_not_go_unnoticed(fault, promise, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)):
        promise()


def test_the_scheduler_is_the_engines_own() -> None:
    from penstock.simulate.replica import Machine

    machine = Machine(Linear(), Policy(), 10, 16)
    from penstock.simulate.clock import Clock

    replica = Replica(0, machine, Clock(), owner=None)  # type: ignore[arg-type]
    assert type(replica.scheduler) is Scheduler
