import numpy as np
import pytest
from scipy import stats as st

from penstock.record import stats


def test_samples_for_a_percentile():
    # 0.99^299 < 0.05 <= 0.99^298, and as MLPerf has it at 99 %: 459.
    assert stats.samples_for(0.99) == 299
    assert stats.samples_for(0.99, 0.99) == 459


def test_no_samples_gives_none_not_zero():
    spread = stats.spread([])
    assert spread["mean"] is None
    assert spread["p99"] is None
    assert spread["n"] == 0
    assert set(spread["intervals"].values()) == {None}


def test_t_interval_of_repeats():
    # t(0.975, 3) = 3.18245; n = 4.
    values = [9.0, 10.0, 10.0, 12.0]
    low, high = stats.t_interval(values)
    assert (low + high) / 2 == pytest.approx(10.25)
    assert high - low == pytest.approx(3.18245 * np.std(values, ddof=1), rel=1e-4)
    assert stats.t_interval([1.0]) is None


def test_batches_without_correlation_are_as_repeats():
    # 1, 2, 1, 2 ...: neighbours differ, so nothing is added for being alike.
    parts = [1.0, 2.0] * 5
    assert stats.of_batches(parts) == stats.of_repeats(parts)


def test_batches_that_are_alike_count_for_less():
    # Off their mean -1, 1, 1, 1, -1, -1, -1, 1, 1, -1: r = 1/10, unbiased 0.2/0.7.
    parts = [0.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    plain, r = stats.of_repeats(parts), 0.2 / 0.7
    assert stats.of_batches(parts).se == pytest.approx(plain.se * np.sqrt((1 + r) / (1 - r)))


def test_sectioning_spreads_about_the_whole():
    # Parts 1, 3, 1, 3 about 5 rather than about 2: squares 16 + 4 + 16 + 4 over b(b - 1) = 12.
    assert stats.of_batches([1.0, 3.0, 1.0, 3.0], value=5.0).se == pytest.approx(np.sqrt(40 / 12))


def autoregressive(rng, n, rho):
    steps = rng.normal(size=n + 100)
    x = np.empty(n + 100)
    x[0] = steps[0]
    for i in range(1, n + 100):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * steps[i]
    return x[100:]


def test_batch_means_cover_a_correlated_mean_where_a_plain_interval_does_not():
    rng = np.random.default_rng(11)
    runs = [autoregressive(rng, 1000, 0.8).tolist() for _ in range(200)]

    def coverage(interval):
        return np.mean([low <= 0 <= high for low, high in map(interval, runs)])

    assert coverage(stats.batch_means) > 0.92
    assert coverage(stats.t_interval) < 0.60


@pytest.mark.parametrize(("name", "level"), [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)])
def test_intervals_of_percentiles_cover_the_truth(name, level):
    rng = np.random.default_rng(12)
    truth = st.norm.ppf(level)
    covered = []
    for _ in range(150):
        low, high = stats.of_percentile(autoregressive(rng, 1500, 0.5), name).interval()
        covered.append(low <= truth <= high)
    assert np.mean(covered) > 0.90


def test_a_percentile_with_too_few_samples_has_no_interval():
    assert stats.of_percentile(list(range(298)), "p99") is None
    assert stats.of_percentile(list(range(299)), "p99") is not None


def test_batch_means_want_two_values_a_batch():
    assert stats.batch_means(list(range(19))) is None
    assert stats.batch_means(list(range(20))) is not None


def test_the_difference_of_repeats_is_welchs_test():
    rng = np.random.default_rng(5)
    a, b = rng.normal(10, 1, 6).tolist(), rng.normal(11, 3, 9).tolist()
    found = stats.difference(stats.of_repeats(a), stats.of_repeats(b))
    assert found.p == pytest.approx(st.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.change == pytest.approx(np.mean(b) / np.mean(a) - 1)


def test_fiellers_interval_leaves_out_zero_just_when_the_test_rejects():
    rng = np.random.default_rng(6)
    outcomes = set()
    for _ in range(300):
        a = stats.of_repeats(rng.normal(10, 1, 5).tolist())
        b = stats.of_repeats(rng.normal(11, 1, 5).tolist())
        found = stats.difference(a, b)
        low, high = found.ci95
        assert (found.p < 0.05) == (not low <= 0 <= high)
        assert low <= found.change <= high
        outcomes.add(found.p < 0.05)
    assert outcomes == {True, False}


def test_fiellers_interval_covers_the_true_ratio():
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        a = stats.of_repeats(rng.normal(10, 2, 6).tolist())
        b = stats.of_repeats(rng.normal(12, 2, 6).tolist())
        low, high = stats.difference(a, b).ci95
        covered += low <= 0.2 <= high
    assert covered >= 930


def test_a_ratio_to_what_may_be_zero_has_no_interval():
    found = stats.difference(stats.Estimate(0.1, 1.0, 9), stats.Estimate(1.0, 1.0, 9))
    assert found.ci95 is None
    assert stats.difference(stats.Estimate(0.0, 0.1, 9), stats.Estimate(1, 0.1, 9)).change is None


def test_what_never_varies_differs_or_does_not():
    one, two = stats.Estimate(1.0, 0.0, 9), stats.Estimate(2.0, 0.0, 9)
    assert stats.difference(one, one) == stats.Difference(0.0, [0.0, 0.0], 1.0)
    assert stats.difference(one, two) == stats.Difference(1.0, [1.0, 1.0], 0.0)


def test_holm():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling, at most 1.
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []
