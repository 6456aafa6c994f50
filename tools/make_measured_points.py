"""Distils published measurements into the small table that `penstock audit` compares with.

python -m tools.make_measured_points [DATA] writes src/penstock/plan/audit/data/measured.csv

Of the points that share model, device, format, devices, lengths and
concurrency two are kept at most: the fastest for a user and the one with the
highest throughput. Rows that do not tell the format or the number of devices
are left out, since nothing can be held against them.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
from benchmarks.measured_tables import FILES, batched, offline, serving

from penstock.plan.audit.measured import Measured

OUT = Path(__file__).parents[1] / "src/penstock/plan/audit/data/measured.csv"


def best(every: Iterator[Measured]) -> list[Measured]:
    """The fastest and the most productive point under each set of conditions."""
    alike: dict[tuple[object, ...], list[Measured]] = defaultdict(list)
    for p in every:
        key = (p.model, p.device, p.precision, p.devices, p.mode, p.prompt, p.output, p.concurrency)
        alike[key].append(p)
    kept = []
    for group in alike.values():
        fastest = max(group, key=lambda p: p.user or 0.0)
        fullest = max(group, key=lambda p: p.system or 0.0)
        kept += [fastest] if fullest is fastest else [fastest, fullest]
    return sorted(kept, key=lambda p: (p.source, p.model, p.device, p.precision, p.devices))


def main(data: str = "../shared/data") -> None:
    """Read the three tables and write the points."""
    results = Path(data) / "results"
    kept = best(serving(results / FILES["serving"]))
    kept += best(offline(results / FILES["offline"]))
    kept += best(batched(results / FILES["llama.cpp"]))
    with OUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Measured.__struct_fields__)
        for point in kept:
            writer.writerow(_cell(value) for value in msgspec.structs.astuple(point))
    print(f"{len(kept)} points in {OUT}")


def _cell(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
