"""What this machine can do at most, measured in under two seconds without PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Beyond this every pass comes from memory on all but a few machines, and the
# time to fill the array would outgrow the measurement.
MAX_WORKING_SET = 256 * 2**20
# Of the square matrices whose product gives the compute peak: large enough for
# the library's blocking, small enough to slip between other processes' slices.
_SIDE = 512


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one device can do at most, for the working set it was measured with.

    `read_bytes_per_s` holds for repeated passes over `working_set_bytes`: a
    model that fits in the cache is read at the cache's speed, so a bandwidth
    means nothing without that size. `peak_flops` maps a precision ("fp32",
    "bf16") to operations per second in large matrix products; a precision
    that could not be measured is absent.
    """

    device: str
    cores: int
    working_set_bytes: int
    read_bytes_per_s: float
    peak_flops: dict[str, float] = field(default_factory=dict)


def measure(working_set_bytes: int, precisions: Sequence[str] = ("fp32",)) -> Hardware:
    """Measure this machine's CPUs with passes over `working_set_bytes` (at most 256 MiB).

    "fp32" is measured with NumPy and "bf16" with PyTorch, where that can be
    imported (which takes a second or two by itself); what cannot be measured
    is left out. Raises `ValueError` for a working set without bytes.
    """
    if working_set_bytes < 1:
        raise ValueError(
            f"working_set_bytes={working_set_bytes} must be at least 1: "
            "pass the bytes one step of the model reads."
        )
    cores = _cores()
    size = min(working_set_bytes, MAX_WORKING_SET)
    peaks = {name: _PEAKS[name](cores) for name in precisions if name in _PEAKS}
    return Hardware(
        device="cpu",
        cores=cores,
        working_set_bytes=size,
        read_bytes_per_s=read_bandwidth(size, cores),
        peak_flops={name: peak for name, peak in peaks.items() if peak is not None},
    )


def read_bandwidth(working_set_bytes: int, threads: int) -> float:
    """Bytes per second that `threads` threads read together, each its own share.

    An OR over 64-bit words is the cheapest work that touches every byte, and
    NumPy releases the interpreter lock for it.
    """
    words = np.ones(max(threads, working_set_bytes // 8), dtype=np.uint64)
    shares = np.array_split(words, threads)
    # Enough passes for some milliseconds a thread, so that waking it costs nothing.
    passes = max(1, 200_000_000 // words.nbytes)

    def read(share: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        for _ in range(passes):
            np.bitwise_or.reduce(share)

    return words.nbytes * passes / _fastest(lambda pool: pool.map(read, shares), threads)


def _fp32_peak(threads: int) -> float:
    left = np.ones((_SIDE, _SIDE), dtype=np.float32)
    right = np.ones((_SIDE, _SIDE), dtype=np.float32)
    # Once on the BLAS library's own threads and once with the rows split over
    # ours, since the environment may tell the library to use a single one.
    shares = np.array_split(left, threads)
    seconds = min(
        _fastest(lambda _: [left @ right], 1),
        _fastest(lambda pool: pool.map(lambda rows: rows @ right, shares), threads),
    )
    return 2 * _SIDE**3 / seconds


def _bf16_peak(_threads: int) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    matrix = torch.ones((_SIDE, _SIDE), dtype=torch.bfloat16)
    return 2 * _SIDE**3 / _fastest(lambda _: [matrix @ matrix], 1)


_PEAKS: dict[str, Callable[[int], float | None]] = {"fp32": _fp32_peak, "bf16": _bf16_peak}


def _fastest(work: Callable[[ThreadPoolExecutor], Any], threads: int) -> float:
    """Seconds of the fastest of some repeats, a quarter of a second in all.

    Whatever else runs on the machine can only slow a repeat down, so the
    fastest is the nearest to what the hardware can do (STREAM reports the best
    of its trials for the same reason: McCalpin 1995). A median would make the
    ceiling as low as the noise is high.
    """
    times: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        list(work(pool))  # starts the threads and touches the memory
        stop = time.perf_counter() + 0.25
        while len(times) < 5 or time.perf_counter() < stop:
            begin = time.perf_counter()
            list(work(pool))
            times.append(time.perf_counter() - begin)
    return min(times)


def _cores() -> int:
    """CPUs this process may use: a container's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
