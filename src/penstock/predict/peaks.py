"""Measures the CPUs: `python -m penstock.predict.peaks BYTES [PRECISION ...]` prints JSON.

A process of its own, told to use one thread per library: the threads here are
ours and wait for nobody. A library's own would meet at barriers in every
product and spin there while another process has the core, which can make a
busy machine look ten times slower than it is. It also keeps PyTorch out of
the process that asks.
"""

from __future__ import annotations

import json
import operator
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Of the square matrices whose product gives the compute peak: large enough for
# the library's blocking, small enough to slip between other processes' slices.
_SIDE = 512


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
    return _matmul_peak(np.ones((_SIDE, _SIDE), dtype=np.float32), threads)


def _bf16_peak(threads: int) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    return _matmul_peak(torch.ones((_SIDE, _SIDE), dtype=torch.bfloat16), threads)


def _int8_peak(threads: int) -> float | None:
    try:
        import torch
    except ImportError:
        return None
    return _matmul_peak(torch.ones((_SIDE, _SIDE), dtype=torch.int8), threads, torch._int_mm)


def _matmul_peak(
    matrix: Any, threads: int, product: Callable[[Any, Any], Any] = operator.matmul
) -> float:
    """Operations per second of products of a square matrix (NumPy's or PyTorch's)."""
    rows = -(-_SIDE // threads)
    shares = [matrix[start : start + rows] for start in range(0, _SIDE, rows)]
    seconds = _fastest(lambda pool: pool.map(lambda share: product(share, matrix), shares), threads)
    return 2 * _SIDE**3 / seconds


# Each gives operations per second, or None where its library is not installed.
PEAKS: dict[str, Callable[[int], float | None]] = {
    "fp32": _fp32_peak,
    "bf16": _bf16_peak,
    "int8": _int8_peak,
}


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


def cores() -> int:
    """CPUs this process may use: a container's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(working_set_bytes: str, *precisions: str) -> None:
    """Print cores, bytes per second and operations per second by precision."""
    threads = cores()
    peaks = {name: PEAKS[name](threads) for name in precisions if name in PEAKS}
    found = {
        "cores": threads,
        "read_bytes_per_s": read_bandwidth(int(working_set_bytes), threads),
        "peak_flops": {name: peak for name, peak in peaks.items() if peak is not None},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
