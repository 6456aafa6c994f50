"""Poisson arrivals must be Poisson: the faults of other tools are these tests' inputs."""

import numpy as np
import pytest
from scipy import stats

from penstock.workload.arrivals import poisson

RATE, COUNT = 10.0, 20_000


def dispersion(offsets, window_s):
    """Variance over mean of the counts in windows: 1 for Poisson."""
    counts = np.bincount((offsets // window_s).astype(int))[:-1]
    return counts.var() / counts.mean()


def lag1(offsets):
    gaps = np.diff(offsets)
    return np.corrcoef(gaps[:-1], gaps[1:])[0, 1]


def assert_poisson(offsets):
    for window_s in (1.0, 5.0):
        # Standard error of the index of dispersion over n windows: sqrt(2/n).
        windows = offsets[-1] / window_s
        assert abs(dispersion(offsets, window_s) - 1) < 4 * np.sqrt(2 / windows)
    assert abs(lag1(offsets)) < 4 / np.sqrt(len(offsets))
    assert stats.kstest(np.diff(offsets), "expon", args=(0, 1 / RATE)).pvalue > 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_gaps_are_independent_and_exponential(seed):
    assert_poisson(poisson(RATE, COUNT, np.random.default_rng(seed)))


def test_workers_that_share_a_seed_would_be_caught():
    """Ten workers that each draw the same gap in turn: bursts of ten equal gaps."""
    rng = np.random.default_rng(0)
    offsets = np.cumsum(np.repeat(rng.exponential(1 / RATE, COUNT // 10), 10))
    with pytest.raises(AssertionError):
        assert_poisson(offsets)


def test_the_count_in_a_time_varies():
    """Gaps are not rescaled to end at count/rate."""
    ends = [poisson(RATE, 100, np.random.default_rng(seed))[-1] for seed in range(400)]
    assert np.std(ends) == pytest.approx(1.0, rel=0.15)  # sqrt(100)/10


def test_a_plan_is_a_function_of_its_seed():
    first, second = (poisson(5, 10, np.random.default_rng(3)) for _ in range(2))
    assert list(first) == list(second)
