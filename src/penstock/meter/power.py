"""Energy that this machine's devices have used, where they tell: NVML for GPUs, RAPL for CPUs.

Both count joules themselves, so that a slow reader loses nothing. What they count
is everything on the device: idle power, other programs, and the meter too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic_ns
from typing import Any

from penstock.record.series import Series

EVERY_S = 1.0
_POWERCAP = Path("/sys/class/powercap")

Read = Callable[[], float]  # joules since some beginning


class Power:
    """The series of every counter that can be read, one named "energy" for each device."""

    def __init__(self, readers: dict[str, Read], why_not: list[str]) -> None:
        self.series = [
            Series(name="energy", unit="J", kind="counter", source=source) for source in readers
        ]
        self.why_not = why_not  # for each kind of counter that cannot be read
        self._readers = list(readers.values())

    def take(self) -> None:
        """Read every counter once; one that fails now is left as it is."""
        for series, read in zip(self.series, self._readers, strict=True):
            with contextlib.suppress(Exception):  # NVML's errors share no base with OSError
                joules = read()
                series.at_ns.append(monotonic_ns())
                series.values.append(joules)


def find(powercap: Path = _POWERCAP) -> Power:
    """Look for counters. What cannot be read is said in `why_not`, not raised."""
    readers: dict[str, Read] = {}
    why_not = []
    for kind, look in (("NVML", _nvml), ("RAPL", lambda: _rapl(powercap))):
        try:
            readers.update(look())
        except Exception as error:
            why_not.append(f"{kind}: {error}")
    return Power(readers, why_not)


@contextlib.asynccontextmanager
async def metering(every_s: float = EVERY_S) -> AsyncIterator[Power]:
    """Read the counters now, every `every_s` seconds, and at the end."""
    power = find()
    task = asyncio.create_task(_again(power, every_s))
    try:
        yield power
    finally:
        task.cancel()
        await asyncio.wait({task})
        power.take()


async def _again(power: Power, every_s: float) -> None:
    while power.series:
        power.take()
        await asyncio.sleep(every_s)


def _nvml() -> dict[str, Read]:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise RuntimeError("the package nvidia-ml-py is not installed") from error
    pynvml.nvmlInit()
    readers: dict[str, Read] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)  # raises where there is none

        def read(device: Any = device) -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) * 1e-3  # mJ

        readers[f"NVML GPU {index}"] = read
    return readers


def _rapl(powercap: Path) -> dict[str, Read]:
    """Whole packages only: their parts (intel-rapl:0:1) are counted in them."""
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    if not zones:
        raise RuntimeError(f"{powercap} shows no package of this machine")
    return {f"RAPL {(z / 'name').read_text().strip()}": _RaplCounter(z) for z in zones}


class _RaplCounter:
    """Joules of one package; the kernel's counter starts again from zero every few minutes."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text()) + 1
        self._turns = 0
        self._last = int(self._file.read_text())  # raises PermissionError: root's only, on most

    def __call__(self) -> float:
        now = int(self._file.read_text())
        self._turns += now < self._last
        self._last = now
        return (self._turns * self._range + now) * 1e-6
