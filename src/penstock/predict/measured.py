"""The machine at hand as a hardware sheet, measured rather than published."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from penstock.predict.hardware import MAX_WORKING_SET, measure
from penstock.predict.sheet import Device

_PRECISIONS = ("fp32", "bf16", "int8")


def this_machine(today: str) -> Device:
    """The CPUs and memory that this process may use; `today` is written beside the figures.

    Takes some seconds. bf16 and int8 are there where PyTorch is installed,
    and no rate is given that was not measured. Raises
    `subprocess.CalledProcessError` where the measurement cannot run.
    """
    found = measure(MAX_WORKING_SET, _PRECISIONS)
    return Device(
        name="this-machine",
        title=f"{_processor()}, {found.cores} cores",
        memory_bytes=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        read_bytes_per_s=found.read_bytes_per_s,
        flops=found.peak_flops,
        sources=(
            f"measured on {today} by penstock: the fastest of repeated readings of "
            f"{found.working_set_bytes / 2**20:,.0f} MiB and of products of square matrices",
        ),
        notes=(
            "Links, power and price are not measured. Rates are those of NumPy and PyTorch: "
            "kernels made for this processor may compute faster."
        ),
    )


def _processor() -> str:
    """What the processor calls itself."""
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
