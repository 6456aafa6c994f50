"""Four things raise throughput, four do not: each a signed prediction."""

from dataclasses import replace

import pytest

from penstock.plan.point import Point, accepted, outcome
from penstock.plan.whatif import CHANGES, asked_for, what_if
from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import device

PLACED = [
    Deployment(architecture("llama-3.1-8b"), device("h100")),
    Deployment(architecture("llama-3.1-70b"), device("h200"), "bf16", "fp8", tp=4),
    Deployment(architecture("qwen3-30b-a3b"), device("b200")),
    Deployment(architecture("deepseek-r1"), device("b200"), "fp8", tp=8),
    Deployment(architecture("llama-3.1-8b"), device("m4-max")),
    Deployment(architecture("llama-3.2-1b"), device("epyc-9755")),
]
NAMES = [f"{one.model.name} on {one.device.name}" for one in PLACED]


def point(deployment, requests=8):
    return Point(deployment, prompt=500, output=250, requests=requests)


def asked(start, name, size=None):
    size = CHANGES[name].default(start) if size is None else size
    return what_if(start, {name: size})[0]


@pytest.mark.parametrize("deployment", PLACED, ids=NAMES)
@pytest.mark.parametrize("name", ["batching", "bandwidth", "speculation", "weights"])
def test_four_things_raise_throughput(deployment, name):
    found = asked(point(deployment), name)
    assert found.effect == "raises"
    assert found.throughput > 0.005
    if name != "speculation" or not deployment.model.is_moe:
        assert found.at_ceiling > 0


def test_speculation_gains_less_where_drafts_touch_experts_of_their_own():
    dense, moe = (asked(point(PLACED[i]), "speculation").at_ceiling for i in (1, 3))
    assert moe < 0.1 < dense


@pytest.mark.parametrize("deployment", PLACED, ids=NAMES)
@pytest.mark.parametrize("name", ["capacity", "requests", "conditions"])
def test_three_things_leave_it(deployment, name):
    found = asked(point(deployment), name)
    assert found.effect == "leaves"
    assert found.throughput == found.at_ceiling == 0


@pytest.mark.parametrize("deployment", PLACED, ids=NAMES)
def test_lower_latency_lowers_it(deployment):
    found = asked(point(deployment, requests=64), "latency", "0.9")
    assert found.effect == "lowers"
    assert found.after.user_tokens_per_s >= found.before.user_tokens_per_s / 0.9
    # A batch of one more would be too slow: it is the least that had to be given up.
    slower = outcome(replace(point(deployment), requests=found.after.running + 1))
    assert slower.user_tokens_per_s < found.before.user_tokens_per_s / 0.9


def test_a_latency_that_nothing_gives_is_answered_with_the_least_there_is():
    found = asked(point(PLACED[0], requests=64), "latency", "0.1")
    assert found.after.running == 1
    assert "the most it gives anybody" in found.why


def test_who_is_alone_is_told_what_else_would_make_it_faster():
    found = asked(point(PLACED[0], requests=1), "latency")
    assert found.effect == "leaves"
    assert "no smaller batch" in found.why


@pytest.mark.parametrize("deployment", PLACED, ids=NAMES)
def test_nothing_gains_more_than_what_was_put_in(deployment):
    start = point(deployment)
    assert asked(start, "batching", "3").throughput <= 2
    assert asked(start, "bandwidth", "3").throughput <= 2
    assert asked(start, "speculation", "0.8").throughput <= accepted(0.8, 4) - 1
    sizes = deployment.model.weight_bytes(deployment.weights) / deployment.model.weight_bytes("fp4")
    assert asked(start, "weights", "fp4").throughput <= max(sizes, 4) - 1


def test_memory_alone_is_idle_but_filled_it_is_a_larger_batch():
    start = point(PLACED[0], requests=32)
    assert asked(start, "capacity").after == asked(start, "capacity").before
    filled = asked(start, "memory")
    assert filled.effect == "raises"
    assert filled.after.running > filled.before.running
    assert filled.user < 0


def test_memory_helps_those_who_wait_for_it_and_the_answer_says_that_it_is_the_batch():
    start = point(PLACED[0])
    found = asked(replace(start, requests=3 * start.held), "capacity")
    assert found.after.running > found.before.running
    assert "it is the batch that changes what a step yields" in found.why


def test_more_requests_than_fit_only_wait():
    start = point(PLACED[0])
    found = asked(start, "requests", "10")
    assert found.before.running == found.after.running == start.held
    assert found.after.e2e_s == pytest.approx(10 * found.before.e2e_s)


def test_speculation_pays_while_memory_binds_and_not_once_compute_does():
    start = Point(PLACED[0], prompt=16, output=200, requests=1)
    gains = [
        asked(replace(start, requests=count), "speculation", "0.5").throughput
        for count in (1, 64, 2000)
    ]
    assert gains[0] > gains[1] > gains[2]
    assert gains[0] > 0 > gains[2]


def test_speculation_whose_drafts_are_refused_lowers_throughput():
    assert asked(point(PLACED[0]), "speculation", "0").effect == "lowers"


def test_accepted_tokens_are_a_geometric_series():
    assert accepted(0, 4) == 1
    assert accepted(1, 4) == 5
    assert accepted(0.8, 3) == pytest.approx((1 - 0.8**4) / 0.2)


def test_one_sequence_gains_from_bandwidth_what_its_reading_took():
    # At the ceiling a single sequence only reads: twice the rate, twice the tokens.
    found = asked(point(PLACED[0], requests=1), "bandwidth", "2")
    assert found.at_ceiling == pytest.approx(1)
    assert 0 < found.throughput < 1  # in practice the overheads stay


def test_a_compute_bound_server_gains_nothing_from_bandwidth_at_its_ceiling():
    start = Point(PLACED[0], prompt=8000, output=20, requests=40)
    found = asked(start, "bandwidth", "2")
    assert found.at_ceiling == 0


def test_a_figure_without_conditions_has_the_span_of_all_of_them():
    why = asked(point(PLACED[0]), "conditions").why
    low, high = outcome(point(PLACED[0], 1)), outcome(point(PLACED[0], 10**6))
    assert f"{low.tokens_per_s:,.0f} to {high.tokens_per_s:,.0f} tokens/s" in why


def test_all_changes_are_answered_where_none_is_named():
    names = [one.change for one in what_if(point(PLACED[0]))]
    assert len(names) == len(CHANGES)
    smallest = Deployment(PLACED[0].model, PLACED[0].device, "int4", "fp8")
    assert len(what_if(point(smallest))) == len(CHANGES) - 2  # nothing smaller to go to


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("warp=2", r"'warp' is no change known here; take batching, bandwidth"),
        ("bandwidth", r"'bandwidth' lacks a size; write bandwidth=2"),
        ("bandwidth=-2", r"bandwidth=-2 must be a number from 0\.01"),
        ("bandwidth=fast", r"bandwidth=fast must be a number"),
        ("batching=nan", r"batching=nan must be a number"),
        ("speculation=1.2", r"speculation=1\.2 must be a number from 0 to 1"),
        ("requests=0.5", r"requests=0\.5 must be a number from 1"),
        ("latency=2", r"latency=2 must be a number from 0\.01 to 1"),
        ("weights=fp7", r"weights='fp7' is no format known here"),
        ("capacity=0.02", r"GB of weights on each of 1 NVIDIA H100"),
    ],
)
def test_a_change_that_cannot_be_is_told_why(text, says):
    with pytest.raises(ValueError, match=says):
        what_if(point(PLACED[0]), asked_for([text]))


def test_no_requests_are_no_point():
    with pytest.raises(ValueError, match="requests=0 must be at least 1"):
        what_if(point(PLACED[0], 0))
