import numpy as np
import pytest

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


def test_t_interval_of_repeats():
    # t(0.975, 3) = 3.18245; n = 4.
    values = [9.0, 10.0, 10.0, 12.0]
    low, high = stats.t_interval(values)
    assert (low + high) / 2 == pytest.approx(10.25)
    assert high - low == pytest.approx(3.18245 * np.std(values, ddof=1), rel=1e-4)
    assert stats.t_interval([1.0]) is None


def _autoregressive(rng, n, rho):
    x, out = 0.0, []
    for step in rng.normal(size=n):
        x = rho * x + step
        out.append(x)
    return out


def test_batch_means_cover_a_correlated_mean_where_a_plain_interval_does_not():
    rng = np.random.default_rng(11)
    runs = [_autoregressive(rng, 1000, 0.8) for _ in range(200)]

    def coverage(interval):
        return np.mean([low <= 0 <= high for low, high in map(interval, runs)])

    assert coverage(stats.batch_means) > 0.90
    assert coverage(stats.t_interval) < 0.60


def test_batch_means_want_two_values_a_batch():
    assert stats.batch_means(list(range(19))) is None
    assert stats.batch_means(list(range(20))) is not None
