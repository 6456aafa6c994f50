"""Joules from counters that the machine keeps, or the reason why there are none."""

import sys
from types import SimpleNamespace

import pytest

from penstock.meter.power import find, metering


@pytest.fixture
def no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails


def zone(directory, name, microjoules, parent="intel-rapl:0"):
    path = directory / parent
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text("999999\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path


def test_rapl_packages_are_read_over_their_overflow(tmp_path, no_nvml):
    package = zone(tmp_path, "package-0", 900_000)
    zone(tmp_path, "core", 5, "intel-rapl:0:0")
    power = find(tmp_path)
    for microjoules in (900_000, 950_000, 100_000, 50_000):
        (package / "energy_uj").write_text(str(microjoules))
        power.take()
    (series,) = power.series
    assert series.source == "RAPL package-0"
    assert series.values == pytest.approx([0.9, 0.95, 1.1, 2.05])
    assert power.why_not == ["NVML: the package nvidia-ml-py is not installed"]


def test_why_there_is_no_energy(tmp_path, no_nvml):
    power = find(tmp_path)
    assert power.series == []
    assert "shows no package" in power.why_not[1]


def test_a_counter_only_root_may_read_is_named(tmp_path, no_nvml, monkeypatch):
    package = zone(tmp_path, "package-0", 1)
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()  # not readable, even by root
    assert "energy_uj" in find(tmp_path).why_not[1]


def test_nvml(tmp_path, monkeypatch):
    energy = iter([1000, 1000, 4000])  # mJ; the first reading is the look for it
    monkeypatch.setitem(
        sys.modules,
        "pynvml",
        SimpleNamespace(
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetTotalEnergyConsumption=lambda device: next(energy),
        ),
    )
    power = find(tmp_path)
    for _ in range(3):
        power.take()  # the third fails, and leaves a gap
    assert power.series[0].source == "NVML GPU 0"
    assert power.series[0].values == [1.0, 4.0]


async def test_metering_where_nothing_can_be_read_says_so(no_nvml):
    async with metering(every_s=0.01) as power:
        pass
    assert power.series or power.why_not
