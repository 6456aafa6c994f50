"""Which share of the sheet's rates measured kernels reach: what the default efficiencies rest on.

python -m benchmarks.kernel_efficiencies DIR [--out FILE]

DIR holds kernel_{gemm,decode_attention,prefill_attention,allreduce}_ms.csv. Of products, the
shares of bandwidth and arithmetic and the fixed time are fitted together; of attention and
all-reduce, the median share of large ones is taken, and the median time of small ones.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from penstock.predict.sheet import Device, device
from penstock.predict.steptime import OVERLAP

Floats = npt.NDArray[np.float64]
WIDTH = {"bfloat16": 2, "fp8": 1}
PRECISION = {"bfloat16": "bf16", "fp8": "fp8"}
LEAST_WEIGHTS = 4e6  # smaller matrices are all overhead


def table(directory: Path, name: str) -> list[dict[str, str]]:
    """The rows of one kernel's file."""
    with (directory / f"kernel_{name}_ms.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grouped(rows: list[dict[str, str]], *names: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows by some of their columns."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def column(rows: list[dict[str, str]], name: str) -> Floats:
    """One column's numbers."""
    return np.array([float(row[name]) for row in rows])


def products(rows: list[dict[str, str]], dtype: str, sheet: Device) -> dict[str, float]:
    """Fit t = fixed + (read^p + compute^p)^(1/p), with p as the step time has it."""
    m, n, k, ms = (column(rows, name) for name in ("m", "n", "k", "latency_ms"))
    keep = n * k >= LEAST_WEIGHTS
    read = (n * k * WIDTH[dtype] / sheet.read_bytes_per_s)[keep]
    compute = (2 * m * n * k / sheet.flops[PRECISION[dtype]])[keep]
    seconds = ms[keep] / 1e3

    def predicted(x: Floats) -> Floats:
        rates = (read * x[1]) ** OVERLAP + (compute * x[2]) ** OVERLAP
        return np.asarray(x[0] * 1e-6 + rates ** (1 / OVERLAP))

    def residuals(x: Floats) -> Floats:
        return np.log(predicted(x) / seconds)

    found = least_squares(
        residuals,
        [3.0, 1.2, 1.4],
        bounds=([0, 1, 1], [50, 5, 5]),
        loss="soft_l1",
        f_scale=0.1,
    ).x
    return {
        "bandwidth": round(1 / found[1], 3),
        "compute": round(1 / found[2], 3),
        "fixed_us": round(found[0], 1),
        "median_error": round(float(np.median(np.abs(predicted(found) / seconds - 1))), 3),
        "kernels": int(keep.sum()),
    }


def decode_attention(rows: list[dict[str, str]], dtype: str, sheet: Device) -> dict[str, float]:
    """Share of bandwidth where K and V take 50 us or more at the sheet's; time where under 1."""
    names = ("batch", "isl", "step", "kv_heads", "head_dim", "latency_ms")
    batch, length, step, heads, size, ms = (column(rows, name) for name in names)
    ideal = batch * (length + step) * heads * size * 2 * WIDTH[dtype] / sheet.read_bytes_per_s
    return _shares(ideal, ms / 1e3, 50e-6)


def prefill_attention(rows: list[dict[str, str]], sheet: Device) -> dict[str, float]:
    """Share of the 16-bit rate where a prompt's attention takes 200 us or more at the sheet's."""
    names = ("batch", "isl", "step", "heads", "head_dim", "latency_ms")
    batch, length, step, heads, size, ms = (column(rows, name) for name in names)
    pairs = batch * (length * (length + 1) / 2 + length * step)
    return _shares(4 * heads * size * pairs / sheet.flops["bf16"], ms / 1e3, 200e-6)


def all_reduce(rows: list[dict[str, str]], gpus: int, sheet: Device) -> dict[str, float]:
    """Share of the link that a ring's 2 (n - 1) / n of the bytes reach, from 200 us on.

    `message_size` counts values of two bytes: read as bytes, eight H100 would
    reach half of what their link is known to give.
    """
    assert sheet.link_bytes_per_s is not None
    moved = column(rows, "message_size") * 2 * 2 * (gpus - 1) / gpus
    return _shares(moved / sheet.link_bytes_per_s, column(rows, "latency_ms") / 1e3, 200e-6)


def _shares(ideal: Floats, seconds: Floats, large: float) -> dict[str, float]:
    big = ideal >= large
    return {
        "share": round(float(np.median(ideal[big] / seconds[big])), 3),
        "small_us": round(1e6 * float(np.median(seconds[ideal < 1e-6])), 1),
        "kernels": int(big.sum()),
    }


def measure(directory: Path) -> dict[str, Any]:
    """Every kernel's shares, by system."""
    found: dict[str, Any] = defaultdict(dict)
    for (system, dtype), rows in grouped(table(directory, "gemm"), "system", "dtype").items():
        found["products"][f"{system} {PRECISION[dtype]}"] = products(rows, dtype, device(system))
    decode = grouped(table(directory, "decode_attention"), "system", "kv_dtype")
    for (system, dtype), rows in decode.items():
        shares = decode_attention(rows, dtype, device(system))
        found["decode attention"][f"{system} {PRECISION[dtype]}"] = shares
    prefill = grouped(table(directory, "prefill_attention"), "system", "kv_dtype")
    for (system, dtype), rows in prefill.items():
        if dtype == "bfloat16":
            found["prefill attention"][system] = prefill_attention(rows, device(system))
    reduce = grouped(table(directory, "allreduce"), "system", "gpus", "kernel")
    for (system, gpus, kernel), rows in reduce.items():
        if kernel == "vLLM_custom_graph":
            shares = all_reduce(rows, int(gpus), device(system))
            found["all-reduce"][f"{system}, {gpus}"] = shares
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    text = json.dumps(measure(given.directory), indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
