"""Arrivals must be what they say: the faults of other tools are these tests' inputs."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from penstock.record.run import Load
from penstock.workload.arrivals import (
    FORMS,
    Constant,
    Diurnal,
    Gamma,
    Poisson,
    Ramp,
    Spike,
    parse_arrival,
)
from penstock.workload.plan import Ask, Asks, Plan, deal

RATE, COUNT = 10.0, 20_000
WORKERS = range(1, 17)
CHANGING = [
    Ramp(1, 20, 1000),
    Ramp(20, 0.5, 1000),
    Spike(5, 50, 200, 300),
    Diurnal(10, 0.8, 600),
    Diurnal(10, 1, 600),
]


def dispersion(offsets, window_s):
    """Variance over mean of the counts in windows: 1 for Poisson."""
    counts = np.bincount((offsets // window_s).astype(int))[:-1]
    return counts.var() / counts.mean()


def lag1(offsets):
    gaps = np.diff(offsets)
    return np.corrcoef(gaps[:-1], gaps[1:])[0, 1]


def assert_poisson(offsets, rate=RATE):
    for window_s in (10 / rate, 50 / rate):
        # Standard error of the index of dispersion over n windows: sqrt(2/n).
        windows = offsets[-1] / window_s
        assert abs(dispersion(offsets, window_s) - 1) < 4 * np.sqrt(2 / windows)
    assert abs(lag1(offsets)) < 4 / np.sqrt(len(offsets))
    assert stats.kstest(np.diff(offsets), "expon", args=(0, 1 / rate)).pvalue > 1e-4


def offsets_of(arrival, seed=0, **end):
    return arrival.offsets(np.random.default_rng(seed), **end)


def union(offsets, workers):
    """What `workers` workers would send, merged by time."""
    asks = Asks(
        lambda i: Ask(id=str(i), content="", prompt_tokens=1, output_tokens=1, at_s=offsets[i]),
        range(len(offsets)),
    )
    shares = deal(Plan(load=Load(kind="open", rate=RATE), asks=asks, warmup=0), workers)
    assert len(shares) == workers
    return np.sort([ask.at_s for share in shares for ask in share.asks])


@pytest.mark.parametrize("workers", WORKERS)
def test_poisson_for_any_number_of_workers(workers):
    offsets = union(offsets_of(Poisson(RATE), seed=workers, count=COUNT), workers)
    assert_poisson(offsets)
    assert list(offsets) == list(offsets_of(Poisson(RATE), seed=workers, count=COUNT))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_gamma_for_any_number_of_workers(workers, burstiness):
    gamma = Gamma(RATE, burstiness)
    offsets = union(offsets_of(gamma, seed=workers, count=COUNT), workers)
    gaps = np.diff(offsets)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    assert abs(lag1(offsets)) < 4 / np.sqrt(COUNT)
    law = stats.gamma(burstiness, scale=1 / (RATE * burstiness))
    assert stats.kstest(gaps, law.cdf).pvalue > 1e-4
    # Counts of a renewal process disperse as the square of the gaps' variation, in long windows.
    assert dispersion(offsets, 10.0) == pytest.approx(1 / burstiness, rel=0.5)


@pytest.mark.parametrize("workers", [1, 5, 16])
@pytest.mark.parametrize("arrival", CHANGING, ids=str)
def test_a_changing_rate_is_poisson_in_its_own_time(arrival, workers):
    """Held against the expected count, arrivals of any rate are Poisson of rate one."""
    offsets = union(offsets_of(arrival, seed=workers, seconds=1800), workers)
    assert_poisson(np.array([arrival.expected(t) for t in offsets]), rate=1.0)


@pytest.mark.parametrize("arrival", CHANGING, ids=str)
def test_a_changing_rate_is_as_written(arrival):
    """Counts in ten stretches of time against the law's, written out here once more."""
    edges = np.linspace(0, 1800, 11)
    counts = np.histogram(offsets_of(arrival, seconds=1800), edges)[0]
    expected = [_integral(arrival, a, b) for a, b in pairwise(edges)]
    assert np.all(np.abs(counts - expected) < 4.5 * np.sqrt(expected))


def _integral(arrival, start, end):
    t = np.linspace(start, end, 20_001)
    if isinstance(arrival, Ramp):
        rate = np.interp(t, [0, arrival.seconds], [arrival.low, arrival.high])
    elif isinstance(arrival, Spike):
        rate = np.where((t >= arrival.start) & (t < arrival.end), arrival.peak, arrival.base)
    else:
        rate = arrival.mean * (1 - arrival.depth * np.cos(2 * np.pi * t / arrival.period))
    return np.trapezoid(rate, t)


@pytest.mark.parametrize("arrival", [Poisson(3), Gamma(3, 0.5), *CHANGING], ids=str)
def test_when_undoes_expected(arrival):
    counts = np.linspace(0.5, 5000, 99)
    back = [arrival.expected(t) for t in arrival.when(counts)]
    assert back == pytest.approx(list(counts), rel=1e-9)


def test_workers_that_share_a_seed_would_be_caught():
    """Ten workers that each draw the same gap in turn: bursts of ten equal gaps."""
    rng = np.random.default_rng(0)
    offsets = np.cumsum(np.repeat(rng.exponential(1 / RATE, COUNT // 10), 10))
    with pytest.raises(AssertionError):
        assert_poisson(offsets)


def test_gaps_rescaled_to_end_on_time_would_be_caught():
    """The count in a time varies as Poisson's does: standard deviation sqrt(100)."""
    counts = [len(offsets_of(Poisson(RATE), seed, seconds=10)) for seed in range(400)]
    assert np.std(counts) == pytest.approx(10, rel=0.15)
    ends = [offsets_of(Poisson(RATE), seed, count=100)[-1] for seed in range(400)]
    assert np.std(ends) == pytest.approx(1.0, rel=0.15)


def test_constant_is_exact_and_begins_at_zero():
    assert list(offsets_of(Constant(4), count=4)) == [0, 0.25, 0.5, 0.75]
    assert list(offsets_of(Constant(4), seconds=0.5)) == [0, 0.25]


@pytest.mark.parametrize("form", ["poisson:5", "gamma:5,0.3", "diurnal:5,0.8,60"])
def test_the_longer_schedule_begins_with_the_shorter(form):
    arrival = parse_arrival(form)
    long = offsets_of(arrival, seed=3, count=30_000)
    assert list(long[:5000]) == list(offsets_of(arrival, seed=3, count=5000))
    assert list(long[long < 60]) == list(offsets_of(arrival, seed=3, seconds=60))
    assert list(long[:100]) == list(offsets_of(arrival, seed=3, seconds=60, count=100))
    assert list(long) != list(offsets_of(arrival, seed=4, count=30_000))


def test_a_schedule_needs_an_end():
    with pytest.raises(ValueError, match="needs an end"):
        offsets_of(Poisson(1))


@pytest.mark.parametrize(
    "text",
    [
        "constant:5",
        "poisson:0.5",
        "gamma:5,0.25",
        "ramp:0-20,60",
        "spike:2,20,10-15",
        "diurnal:5,0.8,3600",
    ],
)
def test_what_is_written_is_read(text):
    arrival = parse_arrival(text)
    assert str(arrival) == text
    twice = arrival.scaled(2)
    assert twice.expected(100) == pytest.approx(2 * arrival.expected(100))
    assert twice.mean_rate(100) == pytest.approx(arrival.expected(100) / 50)


@pytest.mark.parametrize("text", ["", "5", "poisson", "poisson:x", "ramp:1,20,60", "gamma:5"])
def test_what_cannot_be_read_is_answered_with_what_can(text):
    with pytest.raises(ValueError, match="ramp:RATE-RATE,SECONDS") as caught:
        parse_arrival(text)
    assert all(form in str(caught.value) for form in FORMS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("poisson:0", "rate must be above zero"),
        ("gamma:5,0", "burstiness must be above zero"),
        ("ramp:1-0,60", "end of the ramp"),
        ("ramp:1-2,0", "length of the ramp"),
        ("spike:2,20,15-10", "before it starts"),
        ("diurnal:5,1.5,60", "between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_named(text, what):
    with pytest.raises(ValueError, match=what):
        parse_arrival(text)
