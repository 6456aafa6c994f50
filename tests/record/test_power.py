"""Watts and joules per output token, on counters made by hand."""

import pytest

from penstock.record.power import energy_condition, power
from penstock.record.run import Run
from penstock.record.series import Series
from penstock.record.steady import Window
from penstock.record.summary import summarise
from tests.record.simulated import closed_point

S = 10**9
WINDOW = Window(start_ns=10 * S, end_ns=30 * S, steady=True, whole_run=False)


def counter(source, watts, seconds=40, name="energy"):
    """Read every second, and of a constant power."""
    times = [second * S for second in range(seconds + 1)]
    return Series(
        name=name,
        unit="J",
        kind="counter",
        source=source,
        at_ns=times,
        values=[1e6 + watts * second for second in range(seconds + 1)],
    )


def test_power_is_of_all_devices_and_the_window_alone():
    cpu, gpu = counter("RAPL package-0", 40), counter("NVML GPU 0", 210)
    gpu.values[35:] = [value + 1e5 for value in gpu.values[35:]]  # in the drain
    told = power([cpu, counter("page", 1, name="output_tokens"), gpu], WINDOW, 500.0)
    assert told["watts"] == pytest.approx(250)
    assert told["joules_per_output_token"] == pytest.approx(0.5)
    assert told["of"] == ["RAPL package-0", "NVML GPU 0"]


def test_a_device_that_was_not_watched_throughout_leaves_the_sum_unknown():
    told = power([counter("a", 40), counter("b", 40, seconds=20)], WINDOW, 500.0)
    assert told == {"watts": None, "joules_per_output_token": None, "of": ["a", "b"]}


@pytest.mark.parametrize("throughput", [None, 0.0])
def test_without_tokens_there_is_power_and_no_joules_a_token(throughput):
    told = power([counter("a", 40)], WINDOW, throughput)
    assert (told["watts"], told["joules_per_output_token"]) == (pytest.approx(40), None)


def test_without_a_counter_there_is_no_such_figure():
    assert power([counter("page", 1, name="waiting")], WINDOW, 500.0) is None


def run_of(*points, **changes):
    return Run(started="2026-01-01T00:00:00+00:00", target={}, points=list(points), **changes)


def test_the_summary_holds_it_with_its_condition():
    run = run_of(
        *(closed_point(repeat, seconds=20, repeat=repeat) for repeat in range(2)),
        series=[counter("RAPL package-0", 40)],
    )
    [point] = summarise(run)["points"]
    rates = [repeat["output_throughput"]["value"] for repeat in point["repeats"]]
    assert point["power"]["watts"] == pytest.approx(40)
    assert point["power"]["joules_per_output_token"] == pytest.approx(
        sum(40 / rate for rate in rates) / 2
    )
    assert point["conditions"]["energy"].startswith("RAPL package-0: whole, with idle power")


def test_energy_that_could_not_be_read_is_said_to_be_so():
    run = run_of(closed_point(1, seconds=12))
    assert energy_condition(run) == "not read"
    run.target = {"energy": "NVML: not installed; RAPL: root's only"}
    [point] = summarise(run)["points"]
    assert point["power"] is None
    assert point["conditions"]["energy"] == "not readable: NVML: not installed; RAPL: root's only"
