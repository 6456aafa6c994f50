"""The interval of capacity at SLO against servers of known capacity."""

import math

import numpy as np
import pytest

from penstock.meter.capacity import Unsettled, find
from penstock.record.capacity import Trial, estimate
from tests.meter.queues import SHARE, cliff, single_server


async def test_the_interval_holds_the_capacity_of_a_queue_in_18_of_20():
    held, widths = 0, []
    for seed in range(20):
        truth, trial = single_server(rate=100, limit_s=0.15, seconds=30, seed=seed)
        found = estimate(await find(trial, 5.0, whole=False, seed=seed))
        assert found.ci95 is not None
        held += found.ci95[0] <= truth <= found.ci95[1]
        widths.append((found.ci95[1] - found.ci95[0]) / truth)
    assert held >= 18
    assert np.median(widths) < 0.4  # and it says something


@pytest.mark.parametrize("at", [0.3, 7.7, 1000.0])
async def test_a_cliff_is_found_between_two_trials(at):
    found = estimate(await find(cliff(at), 1.0, whole=False))
    low, high = found.ci95
    assert low <= at < high < 1.15 * low
    assert low < found.load < high


@pytest.mark.parametrize("at", [1, 2, 17, 300])
async def test_slots_are_whole(at):
    tried = []

    async def trial(load, designed):
        tried.append(load)
        return await cliff(at)(load, designed)

    found = estimate(await find(trial, 1.0, whole=True))
    assert all(load == int(load) >= 1 for load in tried)
    assert found.ci95[0] <= at < found.ci95[1]


@pytest.mark.parametrize(
    ("at", "whole", "says"),
    [(0.5, True, "even with one request"), (math.inf, False, "met even at"), (0, False, "missed")],
)
async def test_limits_that_no_load_settles(at, whole, says):
    with pytest.raises(Unsettled, match=says):
        await find(cliff(at), 1.0, whole=whole)


def misses(loads, centre, share=SHARE, asked=10_000):
    """Trials whose misses follow a logistic curve exactly."""
    odds = [(1 - share) / share * math.exp((load - centre) / 3) for load in loads]
    return [round(asked * o / (1 + o)) for o in odds]


def test_a_logistic_curve_is_read_off_where_it_is():
    loads = [44.0, 47, 50, 53, 56]
    trials = [Trial(x, 10_000, {SHARE: m}) for x, m in zip(loads, misses(loads, 50), strict=True)]
    found = estimate(trials)
    assert found.load == pytest.approx(50, abs=0.2)
    assert found.ci95[0] < 50 < found.ci95[1]
    assert (found.share, found.trials) == (SHARE, 5)


def test_trials_that_scatter_more_than_chance_widen_the_interval():
    loads = [44.0, 47, 50, 53, 56] * 2
    even = misses(loads, 50)
    uneven = [round(m * f) for m, f in zip(even, [0.5, 1.6] * 5, strict=True)]
    narrow, wide = (
        estimate([Trial(x, 10_000, {SHARE: m}) for x, m in zip(loads, counts, strict=True)])
        for counts in (even, uneven)
    )
    assert wide.ci95[1] - wide.ci95[0] > 3 * (narrow.ci95[1] - narrow.ci95[0])


def test_the_tightest_limits_bind():
    loads = [44.0, 47, 50, 53, 56]
    tight, loose = misses(loads, 48, 0.99), misses(loads, 52, 0.5)
    trials = [
        Trial(x, 10_000, {0.99: a, 0.5: b}) for x, a, b in zip(loads, tight, loose, strict=True)
    ]
    found = estimate(trials)
    assert found.share == 0.99
    assert found.load == pytest.approx(48, abs=0.2)


def test_misses_that_do_not_rise_settle_nothing():
    trials = [Trial(x, 1000, {SHARE: 10}) for x in (40.0, 45, 50, 55, 60)]
    found = estimate(trials)
    assert found.load is found.ci95 is None
    assert "longer trials" in found.reason
