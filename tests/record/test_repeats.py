"""Repeats of an operating point are one point of the summary, with Student's t over them."""

import msgspec
import numpy as np
import pytest

from penstock.record.repeats import grouped
from penstock.record.run import load, save
from penstock.record.stats import t_interval
from tests.record.simulated import closed_point, run_of


@pytest.fixture(scope="module")
def run():
    return run_of(
        *(
            closed_point(10 * repeat + slots, slots=slots, repeat=repeat, seconds=20, offset=0.02)
            for repeat in range(3)
            for slots in (2, 8)
        )
    )


def test_repeats_are_grouped_by_load(run):
    assert grouped(run.points) == [[0, 2, 4], [1, 3, 5]]
    assert [point["of"] for point in run.summary["points"]] == [[0, 2, 4], [1, 3, 5]]


def test_the_same_load_twice_in_one_repeat_stays_two_points():
    one, two = closed_point(1, seconds=12), closed_point(2, seconds=12)
    assert grouped([one, two]) == [[0], [1]]


def test_figures_are_means_over_repeats_with_t(run):
    point = run.summary["points"][1]
    assert point["conditions"]["repeats"] == 3
    values = [repeat["output_throughput"]["value"] for repeat in point["repeats"]]
    assert len(set(values)) == 3
    assert point["output_throughput"]["value"] == pytest.approx(np.mean(values))
    assert point["output_throughput"]["ci95"] == pytest.approx(t_interval(values))
    medians = [repeat["ttft"]["p50"] for repeat in point["repeats"]]
    assert point["ttft"]["p50"] == pytest.approx(np.mean(medians))
    assert point["ttft"]["intervals"]["p50"] == pytest.approx(t_interval(medians))
    assert point["ttft"]["ci95"] == point["ttft"]["intervals"]["mean"]


def test_counts_are_sums_and_samples_those_of_the_smallest(run):
    point = run.summary["points"][0]
    assert point["completed"] == sum(repeat["completed"] for repeat in point["repeats"])
    assert point["ttft"]["n"] == min(repeat["ttft"]["n"] for repeat in point["repeats"])


def test_an_interval_over_repeats_holds_what_differs_from_run_to_run():
    """Runs whose speed differs by 10 % from each other: one run's own interval misses that."""
    over = inside = 0
    for start in range(0, 100, 5):
        points = [
            closed_point(s, seconds=12, deviation=0.02, offset=0.1) for s in range(start, start + 5)
        ]
        for repeat, point in enumerate(points):
            point.repeat = repeat
        [merged] = run_of(*points).summary["points"]
        truth = 375.5  # tokens/s of 8 slots at nominal speed; the geometric mean of run speeds is 1
        low, high = merged["output_throughput"]["ci95"]
        over += low <= truth <= high
        low, high = merged["repeats"][0]["output_throughput"]["ci95"]
        inside += low <= truth <= high
    assert over >= 17
    assert inside <= 12


def test_a_run_with_repeats_survives_the_disk(run, tmp_path):
    save(run, tmp_path)
    again = load(tmp_path)
    assert [point.repeat for point in again.points] == [0, 0, 1, 1, 2, 2]
    assert again.summary == msgspec.json.decode(msgspec.json.encode(run.summary))


def test_reasons_of_each_repeat_count():
    good, bad = closed_point(1, deviation=0.02), closed_point(2, deviation=0.02, repeat=1)
    bad.interrupted = True
    [point] = run_of(good, bad).summary["points"]
    assert not point["verdict"]["valid"]
    assert [reason["code"] for reason in point["verdict"]["reasons"]] == ["interrupted"]
