"""Doors, routers, links, failures, scaling, batch jobs: each where its effect can be told."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.simulate import Fleet, Group, plan_of, simulate
from penstock.simulate.fleet import (
    Admission,
    Autoscale,
    Batch,
    Failure,
    Faults,
    Routing,
    Split,
)
from penstock.workload.arrivals import Constant, Poisson, Spike
from penstock.workload.shapes import Prefix
from tests.simulate.test_replica import trace
from tests.simulate.worlds import Linear, check, source


def fleet(count: int = 1, group: dict | None = None, **more) -> Fleet:
    return Fleet(replicas=(Group(count=count, **{"kv_tokens": 100_000} | (group or {})),), **more)


def test_the_door_refuses_with_429_and_counts() -> None:
    plan = plan_of(trace(*[(0.0, 100, 50)] * 10))
    result = simulate(fleet(admission=Admission(max_outstanding=4)), plan, steps=[Linear()])
    check(result)
    figures = result.summary()["requests"]
    assert (figures["finished"], figures["refused"]) == (4, 6)
    assert figures["by_error"] == {"http_429": 6}


def test_a_full_queue_refuses_too() -> None:
    policy = {"max_running": 2, "max_waiting": 3}
    plan = plan_of(trace(*[(0.0, 100, 50)] * 10))
    result = simulate(fleet(group={"policy": policy}), plan, steps=[Linear()])
    check(result)
    figures = result.summary()["requests"]
    assert 4 <= figures["finished"] <= 5
    assert figures["refused"] == 10 - figures["finished"]


def test_what_can_never_run_is_400() -> None:
    plan = plan_of(trace((0, 500, 50), (0, 100, 50)))
    for small in (fleet(context=400), fleet(group={"kv_tokens": 400})):
        figures = simulate(small, plan, steps=[Linear()]).summary()["requests"]
        assert (figures["finished"], figures["by_error"]) == (1, {"http_400": 1})


def test_clients_without_a_first_token_go_away() -> None:
    policy = {"max_running": 1}
    plan = plan_of(trace((0, 100, 500), (0, 100, 5)))
    impatient = fleet(group={"policy": policy}, admission=Admission(patience_s=1.0))
    result = simulate(impatient, plan, steps=[Linear()])
    check(result)
    assert result.summary()["requests"]["cancelled"] == 1
    assert result.column("end_ns").min() == pytest.approx(1e9, abs=1e8)


def test_a_lost_replicas_requests_go_on_elsewhere() -> None:
    plan = plan_of(trace((0, 100, 400), (0, 100, 400)))
    lost = fleet(2, failures=(Failure(replica=0, at_s=1.0, down_s=5.0),))
    result = simulate(lost, plan, steps=[Linear(context=0)], events=True)
    check(result)
    assert result.finished.all()
    assert result.column("retries").tolist() == [0, 1]
    assert result.replicas[0].paid_s == pytest.approx(result.end_ns * 1e-9)
    moved = result.records()[0 if result.column("retries")[0] else 1]
    assert len(moved.event_ns) == 400  # each token once, the first ones from the lost replica
    # What it had said had to be computed again, so one gap is longer.
    assert np.argmax(np.diff(moved.event_ns)) == pytest.approx(1 / 0.00802, abs=5)


def test_without_retries_they_fail_and_without_replicas_they_are_told() -> None:
    plan = plan_of(trace((0, 100, 400), (2, 100, 400)))
    lost = fleet(failures=(Failure(replica=0, at_s=1.0),), retries=0)
    figures = simulate(lost, plan, steps=[Linear()]).summary()["requests"]
    assert figures["by_error"] == {"http_503": 1, "replica_lost": 1}


def test_requests_wait_for_a_replica_that_restarts() -> None:
    plan = plan_of(trace((2, 100, 40)))
    lost = fleet(failures=(Failure(replica=0, at_s=1.0, down_s=9.0),))
    result = simulate(lost, plan, steps=[Linear()])
    assert result.finished.all()
    assert result.ttft_s[0] == pytest.approx(8.01, abs=0.01)


def test_faults_come_as_often_as_said() -> None:
    plan = source(output="5").open(Constant(1.0), count=3000)
    result = simulate(
        fleet(4, faults=Faults(mean_up_s=100, mean_down_s=20)), plan, steps=[Linear()]
    )
    check(result)
    alive = np.array(next(s.values for s in result.series if s.name == "replicas"))
    assert alive.mean() == pytest.approx(4 * 100 / 120, rel=0.1)


def test_autoscaling_follows_a_spike_late_and_lets_go() -> None:
    group = {"policy": {"max_running": 8}}
    scale = Autoscale(min=1, max=6, target=6, interval_s=5, start_s=30, calm_s=60)
    plan = source(output="200").open(Spike(0.5, 12, 100, 300), seconds=900)
    result = simulate(fleet(group=group, autoscale=scale), plan, steps=[Linear()])
    check(result)
    assert result.finished.all()
    alive = next(s for s in result.series if s.name == "replicas")
    at_s = np.array(alive.at_ns) * 1e-9
    values = np.array(alive.values)
    assert values[at_s < 130].max() == 1  # asked for at the spike, there 30 s later
    assert values[(at_s > 150) & (at_s < 300)].max() >= 4
    assert values[at_s > 700].max() == 1
    fixed = simulate(fleet(6, group=group), plan, steps=[Linear()])
    assert result.replica_s < 0.6 * fixed.replica_s
    assert np.nanquantile(result.ttft_s, 0.95) > np.nanquantile(fixed.ttft_s, 0.95)


def test_batch_jobs_fill_gaps_and_stay_behind() -> None:
    group = {"policy": {"max_running": 16}}
    plan = source(output="50").open(Poisson(2.0), seconds=200)
    alone = simulate(fleet(group=group), plan, steps=[Linear()])
    jobs = Batch(requests=10_000, prompt_tokens=200, output_tokens=50, fill=12)
    both = simulate(fleet(group=group, batch=jobs), plan, steps=[Linear()])
    check(both)
    assert len(both.table) == len(alone.table)  # the batch is in no row
    assert both.backlog is not None
    assert both.backlog.finished > 2000
    assert both.backlog.output_tokens == 50 * both.backlog.finished
    assert np.nanquantile(both.ttft_s, 0.99) < np.nanquantile(alone.ttft_s, 0.99) + 0.1


def test_the_background_waits_for_the_front() -> None:
    group = {"policy": {"max_running": 8}}
    plan = source(output="100").open(Poisson(9.0), count=600)
    some = fleet(group=group, background_share=0.3)
    result = simulate(some, plan, steps=[Linear()])
    check(result)
    assert result.finished.all()
    waits = result.summary()["by_priority"]
    assert 130 < waits["background"]["requests"] < 230
    assert waits["background"]["ttft"]["p90"] > 3 * waits["front"]["ttft"]["p90"]
    equal = simulate(fleet(group=group), plan, steps=[Linear()]).summary()
    assert equal["by_priority"] == {}
    assert waits["front"]["ttft"]["p90"] < equal["ttft"]["p90"]


def test_routers_differ_where_prefixes_are_shared() -> None:
    found = {}
    for policy in ("random", "prefix", "kv"):
        # No replica can hold all twelve prefixes, the four together can.
        some = fleet(4, {"kv_tokens": 12_000}, router=Routing(policy=policy))
        plan = source(Prefix(12, 2000), prompt="50", output="20").open(Poisson(20.0), count=600)
        result = simulate(some, plan, steps=[Linear()])
        check(result)
        found[policy] = result.summary()["cached_share"]
    assert found["random"] < found["prefix"] - 0.2
    assert found["kv"] >= found["prefix"] - 0.02


def test_stale_views_mislead() -> None:
    found = []
    for stale_s in (0.0, 30.0):
        router = Routing(policy="kv", stale_s=stale_s)
        some = fleet(4, {"kv_tokens": 12_000}, router=router)
        plan = source(Prefix(12, 2000), prompt="50", output="20").open(Poisson(20.0), count=600)
        found.append(simulate(some, plan, steps=[Linear()]).summary()["cached_share"])
    assert found[1] < found[0]


def split(link: float, **more) -> Fleet:
    how = {"kv_tokens": 100_000, "link_bytes_per_s": link, "kv_bytes_per_token": 1e5}
    groups = (Group(role="prefill", **how), Group(role="decode", **how))
    return Fleet(replicas=groups, **more)


def test_a_split_requests_first_token_comes_after_its_kv() -> None:
    step = Linear(step=0.01, token=1e-4, context=0)
    plan = plan_of(trace((0, 1000, 10)))
    result = simulate(split(1e9, split=Split(latency_s=0.005)), plan, steps=[step, step])
    check(result)
    prefill, transfer, decode = 0.01 + 0.1, 1000 * 1e5 / 1e9 + 0.005, 0.01 + 1e-4
    assert result.ttft_s[0] == pytest.approx(prefill + transfer + decode, abs=1e-6)
    assert result.tpot_s[0] == pytest.approx(decode, abs=1e-6)
    assert [one.prefill_tokens for one in result.replicas] == [1000, 0]


def test_transfers_on_one_link_queue_up() -> None:
    step = Linear(step=0.01, token=0, context=0)
    plan = plan_of(trace((0, 1000, 10), (0, 1000, 10)))
    result = simulate(split(1e8, split=Split(latency_s=0)), plan, steps=[step, step])
    # Both prompts are computed in one step; each transfer takes a second.
    assert np.sort(result.ttft_s) == pytest.approx([0.01 + 1 + 0.01, 0.01 + 2 + 0.01], abs=0.011)


def test_short_prompts_are_not_sent_over() -> None:
    step = Linear(step=0.01, token=1e-4, context=0)
    plan = plan_of(trace((0, 100, 10)))
    near = split(1e6, split=Split(min_prompt_tokens=500))
    result = simulate(near, plan, steps=[step, step])
    assert result.ttft_s[0] == pytest.approx(0.02, abs=1e-6)


def test_a_split_protects_decodes_from_long_prompts() -> None:
    whole = Fleet(replicas=(Group(count=2, kv_tokens=200_000),))
    plan = source(prompt="4000", output="200").open(Poisson(2.0), count=200)
    together = simulate(whole, plan, steps=[Linear(token=1e-4)])
    apart = simulate(split(1e11), plan, steps=[Linear(token=1e-4)] * 2)
    check(apart)
    assert np.nanquantile(apart.tpot_s, 0.9) < 0.6 * np.nanquantile(together.tpot_s, 0.9)
