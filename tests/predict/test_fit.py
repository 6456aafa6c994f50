"""Fitting: planted parameters come back, physics is kept, intervals cover what they should."""

import numpy as np
import pytest

from penstock.predict.calibrate import calibrate
from penstock.predict.fit import Bounded, fit, interval
from penstock.predict.observe import Spans, from_records, spans
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.stepfile import Named
from penstock.predict.steptime import Costs, Efficiencies, MeasuredStepTime, Overheads
from penstock.simulate.fleet import Fleet, Group
from penstock.simulate.run import plan_of, simulate
from penstock.workload.traces import Trace

NAMED = Named(model="meta-llama/Llama-3.1-8B", device="h100")
TRUE = Efficiencies(bandwidth=0.7, kv=0.6, compute={"bf16": 0.55}, attention=0.4)
EXTRA = Overheads(step_s=3e-3, sequence_s=50e-6, request_s=0.03)


def observed(step, rng, count=400, noise=0.03):
    """Spans of a server with this step time: all kinds of load, times off by some noise."""
    steps = rng.integers(1, 33, count).astype(float)
    mixed = np.where(rng.random(count) < 0.5, np.minimum(steps, rng.integers(1, 4, count)), 0.0)
    running = rng.integers(1, 200, count)
    prefill = mixed * rng.integers(64, 2048, count)
    columns = {
        "ended": np.cumsum(np.ones(count)),
        "seconds": np.ones(count),
        "steps": steps,
        "mixed": mixed,
        "requests": (rng.random(count) < 0.1).astype(float),
        "decodes": steps * running,
        "context": steps * running * rng.uniform(50, 4000, count),
        "prefill": prefill,
        "pairs": prefill * rng.uniform(100, 2000, count),
        "prompts": mixed,
    }
    found = Spans(**columns)
    seconds = [
        sum(times * step.seconds(load) for times, load in found.loads(i))
        + found.requests[i] * step.request_s
        for i in range(count)
    ]
    return found._replace(seconds=np.array(seconds) * np.exp(rng.normal(0, noise, count)))


def test_planted_efficiencies_come_back():
    step = PhysicalStepTime(NAMED.deployment(), TRUE, EXTRA)
    made = calibrate(observed(step, np.random.default_rng(1)), NAMED)
    found = made.file.estimate
    assert found.efficiencies.bandwidth == pytest.approx(0.7, rel=0.1)
    assert found.efficiencies.kv == pytest.approx(0.6, rel=0.1)
    assert found.efficiencies.compute["bf16"] == pytest.approx(0.55, rel=0.07)
    assert found.overheads.request_s == pytest.approx(0.03, rel=0.5)
    assert made.fitted.held_out_error < 0.05
    assert abs(made.fitted.bias) < 0.02


def test_experts_and_links_are_fitted_where_there_are_any():
    named = Named(model="qwen3-30b-a3b", device="h100", tp=2)
    step = PhysicalStepTime(named.deployment(), Efficiencies(compute={"bf16": 0.4}, link=0.5))
    seen = observed(step, np.random.default_rng(4))
    made = calibrate(seen, named)
    # Both grow with a step's tokens, so only their sum is certain.
    assert made.fitted.costs.experts_compute == made.fitted.costs.compute
    assert made.fitted.costs.link != PhysicalStepTime(named.deployment()).costs.link
    assert made.fitted.held_out_error < 0.06
    for times, load in seen.loads(0):
        if times:
            assert made.step.seconds(load) == pytest.approx(step.seconds(load), rel=0.1)


def test_an_efficiency_never_passes_one():
    # Twice as fast as the sheet allows: physics stays, the error tells.
    step = PhysicalStepTime(NAMED.deployment(), scale=0.3)
    made = calibrate(observed(step, np.random.default_rng(2), noise=0.0), NAMED)
    found = made.file.estimate.efficiencies
    assert max(found.bandwidth, found.kv, found.attention, *found.compute.values()) <= 1
    assert min(draw.efficiencies.kv for draw in made.file.draws) > 0
    assert made.fitted.bias > 0.2


def test_stray_spans_move_little():
    step = PhysicalStepTime(NAMED.deployment(), TRUE, EXTRA)
    rng = np.random.default_rng(3)
    clean = observed(step, rng)
    hiccups = np.where(rng.random(len(clean.seconds)) < 0.08, 3.0, 1.0)
    made = calibrate(clean._replace(seconds=clean.seconds * hiccups), NAMED)
    guessed = [sum(n * made.step.seconds(load) for n, load in clean.loads(i)) for i in range(400)]
    assert np.sum(guessed) == pytest.approx(np.sum(clean.seconds), rel=0.03)


def test_too_few_spans_are_refused():
    step = MeasuredStepTime(Costs(read=0.01, step=0.001))
    few = observed(step, np.random.default_rng(0), count=9)
    with pytest.raises(ValueError, match="9 spans of steps are too few"):
        fit(step, few, [Bounded("read", 0.01, 0.0, 1.0)])


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Of the mean step of a load, over many runs with noise that lasts a while, as in real ones."""
    true = MeasuredStepTime(Costs(read=0.01, compute=30e-6, kv=20e-9, sequence=60e-6, step=2e-3))
    load = observed(true, np.random.default_rng(99), count=1).loads(0)[0][1]
    free = [Bounded(name, 1e-4 if name in ("step", "read") else 1e-7, 0.0, 1e6)
            for name in ("read", "compute", "kv", "sequence", "step")]  # fmt: skip
    held, trials = 0, 20
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        clean = observed(true, rng, count=100, noise=0.02)
        lasting = np.repeat(rng.normal(0, 0.05, 20), 5)
        made = fit(true, clean._replace(seconds=clean.seconds * np.exp(lasting)), free, seed=seed)
        low, high = interval(made, lambda costs: MeasuredStepTime(costs).seconds(load))
        held += low <= true.seconds(load) <= high
    assert 0.8 * trials <= held <= trials


COSTS = Costs(read=8e-3, compute=40e-6, kv=30e-9, sequence=100e-6, step=1e-3)


@pytest.fixture(scope="module")
def black_box():
    """A run of a simulated server: a known step time, seen only from the outside."""
    rng = np.random.default_rng(5)
    count = 300
    trace = Trace(
        format="made up",
        at_s=np.cumsum(rng.exponential(0.12, count)),
        prompt_tokens=rng.integers(50, 1500, count),
        output_tokens=rng.integers(20, 300, count),
    )
    group = Group(costs=COSTS, kv_tokens=400_000, policy={"max_step_tokens": 2048})
    result = simulate(Fleet(replicas=(group,)), plan_of(trace), events=True)
    return result.records()


def test_a_server_seen_from_outside_gives_its_step_time(black_box):
    made = calibrate(spans(from_records(black_box), 2048))
    true = MeasuredStepTime(COSTS)
    for i in range(0, len(made.spans.seconds), 50):
        for _, load in made.spans.loads(i):
            assert made.step.seconds(load) == pytest.approx(true.seconds(load), rel=0.1)
    assert made.fitted.held_out_error < 0.08


def test_what_is_unfinished_or_uncounted_is_left_out(black_box):
    record = black_box[0]
    lame = [
        type(record)(request_id="1", sched_ns=0, outcome="failed"),
        type(record)(request_id="2", sched_ns=0, outcome="finished"),
    ]
    assert from_records(lame) == []
    with pytest.raises(ValueError, match="no step can be told from 0 requests"):
        spans([])
