"""Counters are read between readings, and survive the disk exactly."""

from penstock.record.run import load, save
from penstock.record.series import Series, at, grown, share
from tests.record.test_run import make_run


def counter(*points):
    times, values = zip(*points, strict=True)
    return Series(
        name="x", unit="J", kind="counter", source="s", at_ns=list(times), values=list(values)
    )


def test_growth_is_read_between_readings():
    big = 10**18  # such times are not exact in float64
    series = counter((big, 5.0), (big + 1000, 15.0), (big + 2000, 15.0))
    assert at(series, big + 500) == 10.0
    assert grown(series, big + 500, big + 1500) == 5.0


def test_what_was_not_watched_is_unknown():
    series = counter((100, 5.0), (1000, 15.0))
    assert grown(series, 99, 500) is None
    assert grown(series, 500, 1001) is None
    assert at(Series(name="x", unit="J", kind="counter", source="s"), 1) is None


def test_a_counter_that_began_again_tells_nothing():
    assert grown(counter((0, 5.0), (10, 1.0)), 0, 10) is None


def test_a_share_is_of_what_grew():
    hits, asked = counter((0, 0.0), (10, 3.0)), counter((0, 0.0), (10, 12.0))
    assert share(hits, asked, 0, 10) == 0.25
    assert share(hits, counter((0, 7.0), (10, 7.0)), 0, 10) is None


def test_series_round_trip(tmp_path):
    run = make_run()
    run.series = [counter((2**62, 0.1), (2**62 + 1, 1e300)), counter((1, 2.0))]
    run.series[1].position = 3
    save(run, tmp_path)
    assert load(tmp_path) == run


def test_a_run_of_before_there_were_series_loads(tmp_path):
    run = make_run()
    save(run, tmp_path)
    (tmp_path / "metrics.parquet").unlink()
    assert load(tmp_path) == run
