"""Milliseconds of one decoder step by precision and number of decodes, and where they go.

python -m benchmarks.step_time
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from datetime import date

import torch
from torch.profiler import profile

import penstock
from benchmarks.common import arguments, publish, spread
from penstock import models
from penstock.engine.kv import KVStore
from penstock.engine.model import loader
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.decoder import Decoder

CONTEXT, PAGE_SIZE, STEPS = 256, 16, 20
DECODES = (1, 8, 16, 32)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = {  # by the names of PyTorch's operators
    "weights": ("_linear_pointwise", "addmm", "aten::mm"),
    "attention": ("scaled_dot", "bmm", "softmax"),
    "reading K and V": ("index_select",),
}


def decodes(count: int, context: int = CONTEXT) -> StepBatch:
    """So many sequences of one context, each on its own pages."""
    width = -(-context // PAGE_SIZE)
    tables = torch.arange(count * width).view(count, width)
    last = torch.full((count,), context - 1)
    return StepBatch(
        tokens=torch.arange(count) + 100,
        positions=last,
        slots=tables[:, -1] * PAGE_SIZE + last % PAGE_SIZE,
        decodes=count,
        decode_tables=tables,
        decode_contexts=last + 1,
        max_decode_context=context,
        prefills=[],
        logit_rows=torch.arange(count),
    )


def milliseconds(decoder: Decoder, kv: KVStore, batch: StepBatch) -> float:
    """Mean of some steps."""
    decoder.forward(batch, kv)
    started = time.perf_counter()
    for _ in range(STEPS):
        decoder.forward(batch, kv)
    return 1e3 * (time.perf_counter() - started) / STEPS


def shares(decoder: Decoder, kv: KVStore, batch: StepBatch) -> dict[str, float]:
    """Of the operators' own time, how much each kind takes."""
    with profile() as profiled:
        for _ in range(STEPS):
            decoder.forward(batch, kv)
    times: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        names = (kind for kind, parts in KINDS.items() if any(part in event.key for part in parts))
        times[next(names, "everything else")] += event.self_cpu_time_total
    return {kind: round(spent / sum(times.values()), 3) for kind, spent in times.items()}


@torch.inference_mode()
def main() -> None:
    """Time the precisions in turn, round by round, and publish."""
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loaded = {}
    for name, dtype in PRECISIONS.items():
        _, decoder = loader.load(models.path(given.model), dtype, "cpu")
        pages = max(DECODES) * CONTEXT // PAGE_SIZE
        loaded[name] = decoder, KVStore(decoder.kv_layers(), pages, PAGE_SIZE, dtype, "cpu")
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        for count in DECODES:
            for name, (decoder, kv) in loaded.items():
                spent = milliseconds(decoder, kv, decodes(count))
                times[f"{name}, {count} decodes"].append(spent)
    publish(
        {
            "milliseconds_per_step": {name: spread(values) for name, values in times.items()},
            "share_of_operator_time": {
                f"{name}, {count} decodes": shares(decoder, kv, decodes(count))
                for count in DECODES
                for name, (decoder, kv) in loaded.items()
            },
            "conditions": {
                "date": date.today().isoformat(),
                "penstock": penstock.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "model": given.model,
                "context": CONTEXT,
                "page_size": PAGE_SIZE,
                "threads": given.threads,
            },
        },
        given.out,
    )


if __name__ == "__main__":
    main()
