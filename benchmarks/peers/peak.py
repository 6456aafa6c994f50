"""What this machine can do, at the sizes of a model: `python -m benchmarks.peers.peak THREADS`.

`penstock.predict` measures with small arrays, to be quick, and in many
versions of PyTorch. Here bytes per second are read over 1 GiB, of which no
cache keeps a part, and products have the size of a layer's: in bf16, and by
oneDNN's of u8 rows with s8 weights, the fastest in int8 that PyTorch has.
Prints the rates as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import torch

from penstock.predict.peaks import read_bandwidth

ROWS, INPUTS, OUTPUTS = 512, 1024, 3072


def bf16_peak() -> float:
    """Operations per second."""
    x = torch.ones(ROWS, INPUTS, dtype=torch.bfloat16)
    weights = torch.ones(OUTPUTS, INPUTS, dtype=torch.bfloat16)
    return _best(lambda: torch.nn.functional.linear(x, weights))


def int8_peak() -> float:
    """Operations per second."""
    weights = torch.randint(-127, 128, (OUTPUTS, INPUTS), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weights, [ROWS, INPUTS])
    x = torch.randint(0, 256, (ROWS, INPUTS), dtype=torch.uint8)
    scales, zeros = torch.ones(OUTPUTS), torch.zeros(OUTPUTS, dtype=torch.int64)
    return _best(
        lambda: torch.ops.onednn.qlinear_pointwise(
            *(x, 1.0, 128, packed, scales, zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),  # no bias, plain fp32 out
        )
    )


def _best(product: Callable[[], object]) -> float:
    """The best of a second's products, for the reason that `penstock.predict.peaks` has."""
    best = math.inf
    stop = time.perf_counter() + 1.0
    while time.perf_counter() < stop:
        begin = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - begin)
    return 2 * ROWS * INPUTS * OUTPUTS / best


if __name__ == "__main__":
    threads = int(sys.argv[1])
    torch.set_num_threads(threads)
    peaks = {"bf16": bf16_peak(), "int8": int8_peak()}
    print(json.dumps({"read": read_bandwidth(2**30, threads), "peak": peaks}))
