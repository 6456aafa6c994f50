"""Device-hours over a day, and batch work moved into its valleys, against hand arithmetic."""

import numpy as np
import pytest

from penstock.plan.curve import Curve, day_of, read_curve
from penstock.plan.hours import follow, off_peak, replicas_over
from tests.plan.paths import TRACES


def curve(*rates, step_s=3600.0):
    return Curve(name="x", step_s=step_s, rates=np.array(rates, dtype=float))


def test_replicas_are_the_rate_over_what_one_carries():
    made = curve(0, 1, 2, 2.1, 5, 0)
    assert replicas_over(made, [2.0], 0).tolist() == [1, 1, 1, 2, 3, 1]


def test_two_kinds_of_replicas_are_counted_apart():
    # For answers one carries 2/s, for prompts 5/s: at 6/s three and two, at night one of each.
    assert replicas_over(curve(0, 6), [2.0, 5.0], 0).tolist() == [2, 5]


def test_a_replica_is_paid_for_from_its_start():
    made = curve(1, 1, 1, 6, 1, 1)
    assert replicas_over(made, [2.0], 3600).tolist() == [1, 1, 3, 3, 1, 1]
    assert replicas_over(made, [2.0], 5400).tolist() == [1, 3, 3, 3, 1, 1]


def test_hours_by_hand():
    # Four hours that need 1, 2, 4 and 1 replicas of 8 devices at $20 an hour.
    found = follow(curve(1, 4, 8, 2), [2.0], devices=8, usd_per_hour=20.0, startup_s=0)
    assert (found.peak_replicas, found.mean_replicas, found.hours) == (4, 2.0, 4.0)
    assert found.device_hours_standing == 4 * 4 * 8
    assert found.device_hours_followed == 8 * 8
    assert found.usd_followed == 160
    assert found.saving == 0.5
    assert found.starts == 4


def test_the_wave_of_a_day():
    made = day_of(18, 0.8)
    assert made.hours == 24
    assert made.mean == pytest.approx(10)
    assert made.peak == pytest.approx(18, rel=1e-3)
    assert made.rates[0] == pytest.approx(2, rel=1e-2)
    assert day_of(18, 0).rates == pytest.approx(18)


def test_batch_work_moves_into_the_valley():
    # Day of 12 hours at 10/s and 12 at 2/s; a replica carries 1/s. 40 % may wait: the rest
    # needs 6 at its busiest, all work 6 on average. So 6 replicas of $1 do what 10 did.
    made = curve(*[10.0] * 12, *[2.0] * 12)
    found = off_peak(made, 0.4, [1.0], 1.0)
    assert (found.replicas_before, found.replicas_after) == (10, 6)
    assert found.usd_per_month_saved == 4 * 730
    # By day nothing is left for it; the 48 hours' worth of the day take the whole night.
    assert found.longest_wait_h == pytest.approx(12, abs=1)
    assert "fills the smaller fleet" in found.why


def test_what_cannot_wait_still_sets_the_fleet():
    found = off_peak(curve(*[10.0] * 6, *[0.0] * 18), 0.2, [1.0], 1.0)
    assert (found.replicas_before, found.replicas_after) == (10, 8)
    assert "at its busiest" in found.why


def test_an_even_day_saves_nothing():
    found = off_peak(curve(5, 5, 5, 5), 0.5, [1.0], 1.0)
    assert found.usd_per_month_saved == 0
    assert "even" in found.why


def trace(name):
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return str(path)


def test_a_trace_of_requests():
    made = read_curve(trace("azure2023_conv.csv"))
    assert made.step_s == 60
    assert 0.9 < made.hours < 1
    assert made.mean == pytest.approx(19_366 / 3502, rel=0.03)
    assert made.prompt.mean == pytest.approx(1155, abs=1)
    assert made.output.mean == pytest.approx(211, abs=1)


def test_a_table_of_rates():
    path = trace("servegen_rate_10min.csv")
    made = read_curve(f"{path}#language/m-large")
    assert (made.step_s, made.hours) == (600, 336)
    assert made.peak == pytest.approx(582.9917)
    with pytest.raises(ValueError, match="several workloads; choose one"):
        read_curve(path)
    with pytest.raises(ValueError, match="no workload 'x'"):
        read_curve(path + "#x")


def test_no_trace():
    with pytest.raises(ValueError, match="does not exist"):
        read_curve("nowhere.csv")


def test_a_trace_that_waits_for_answers_has_no_load():
    with pytest.raises(ValueError, match="wait for answers"):
        read_curve(trace("agentic_coding_requests.csv.gz"))


@pytest.mark.parametrize(
    "rows", ["x,0,1", "x,0,1\nx,600,-1", "x,0,1\nx,600,2\nx,700,1", "x,0,a\nx,1,1"]
)
def test_a_table_that_is_none(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text("workload,t_s,total_rate_rps\n" + rows)
    with pytest.raises(ValueError, match=r"t\.csv"):
        read_curve(str(path))
