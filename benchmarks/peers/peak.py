"""Operations per second of the fastest int8 product PyTorch has: `python -m benchmarks.peers.peak`.

That is oneDNN's, of u8 rows with s8 weights; the one that
`penstock.predict.peaks` takes is in more versions of PyTorch, and slower.
Prints the rate for the number of threads given.
"""

from __future__ import annotations

import math
import sys
import time

import torch


def int8_peak(threads: int, rows: int = 512, inputs: int = 1024, outputs: int = 3072) -> float:
    """The best of a second's products, for the reason that `penstock.predict.peaks` has."""
    torch.set_num_threads(threads)
    weights = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weights, [rows, inputs])
    x = torch.randint(0, 256, (rows, inputs), dtype=torch.uint8)
    scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    best = math.inf
    stop = time.perf_counter() + 1.0
    while time.perf_counter() < stop:
        begin = time.perf_counter()
        torch.ops.onednn.qlinear_pointwise(
            *(x, 1.0, 128, packed, scales, zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),  # no bias, plain fp32 out
        )
        best = min(best, time.perf_counter() - begin)
    return 2 * rows * inputs * outputs / best


if __name__ == "__main__":
    print(int8_peak(int(sys.argv[1])))
