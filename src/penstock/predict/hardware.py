"""What this machine can do at most, measured in under two seconds without PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

# Beyond this every pass comes from memory on all but a few machines, and the
# time to fill the array would outgrow the measurement.
MAX_WORKING_SET = 256 * 2**20
# One thread for each library that may do the products; see `peaks`.
_ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one device can do at most, for the working set it was measured with.

    `read_bytes_per_s` holds for repeated passes over `working_set_bytes`: a
    model that fits in the cache is read at the cache's speed, so a bandwidth
    means nothing without that size. `peak_flops` maps a precision ("fp32",
    "bf16", "int8") to operations per second in large matrix products; a precision
    that could not be measured is absent.
    """

    device: str
    cores: int
    working_set_bytes: int
    read_bytes_per_s: float
    peak_flops: dict[str, float] = field(default_factory=dict)


def measure(working_set_bytes: int, precisions: Sequence[str] = ("fp32",)) -> Hardware:
    """Measure the CPUs that this process may use, with passes over so many bytes (at most 256 MiB).

    "fp32" is measured with NumPy, "bf16" and "int8" with PyTorch, where that is
    installed (loading it takes some seconds more); what cannot be measured is
    left out. Raises `ValueError` for a working set without bytes, and
    `subprocess.CalledProcessError` where the measurement cannot run.
    """
    if working_set_bytes < 1:
        raise ValueError(
            f"working_set_bytes={working_set_bytes} must be at least 1: "
            "pass the bytes one step of the model reads."
        )
    size = min(working_set_bytes, MAX_WORKING_SET)
    # -P: a file in the current folder must not stand in for a library.
    command = [sys.executable, "-P", "-m", "penstock.predict.peaks", str(size), *precisions]
    environment = {**os.environ, **_ALONE}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return Hardware(device="cpu", working_set_bytes=size, **json.loads(found))
