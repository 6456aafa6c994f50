"""How fast the simulator is: a day of a million requests, and a production trace on eight replicas.

Both on one core, with the physical step time of a model on a device. The day's lengths
are like those of Azure's chat trace (log-normal, means 1,155 and 211 tokens),
its arrivals gamma with burstiness 0.5.

    python -m benchmarks.simulate_speed --trace mooncake_conversation.jsonl
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.studies import keep
from penstock.simulate import Fleet, Group, plan_of, simulate
from penstock.simulate.fleet import Routing
from penstock.workload.arrivals import Gamma
from penstock.workload.plan import Plan
from penstock.workload.presets import PRESETS
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source
from penstock.workload.traces import read_trace

DAY_S = 86_400


def day(requests: int, page_tokens: int) -> dict[str, Any]:
    """`requests` in a day, or a part of a day at the same rate, on two replicas."""
    chat = PRESETS["chat"]
    assert chat.input_len is not None
    assert chat.output_len is not None
    source = Source(
        prompts=Sketches(), input_len=chat.input_len, output_len=chat.output_len, seed=0
    )
    plan = source.open(Gamma(1e6 / DAY_S, 0.5), count=requests)
    group = Group(count=2, model="llama-3.1-8b", device="h100", page_tokens=page_tokens)
    return timed(Fleet(replicas=(group,), router=Routing(policy="least-loaded")), plan)


def production(trace: Path, page_tokens: int) -> dict[str, Any]:
    """The trace on eight replicas, routed by what their caches hold; its blocks are pages."""
    group = Group(
        count=8,
        model="llama-3.1-8b",
        device="h200",
        page_tokens=page_tokens,
        policy={"preset": "vllm", "max_running": 1024},
    )
    fleet = Fleet(replicas=(group,), router=Routing(policy="kv"))
    return timed(fleet, plan_of(read_trace(trace)))


def timed(fleet: Fleet, plan: Plan) -> dict[str, Any]:
    """Simulate, and say how long it took."""
    began = time.process_time()
    result = simulate(fleet, plan)
    cpu_s = time.process_time() - began
    figures = result.summary()
    return {
        "requests": figures["requests"]["sent"],
        "finished": figures["requests"]["finished"],
        "virtual_s": round(figures["seconds"], 1),
        "wall_s": round(result.wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "requests_per_s": round(figures["requests"]["sent"] / result.wall_s),
        "steps": sum(one["steps"] for one in figures["replicas"]),
        "output_tokens": sum(one["output_tokens"] for one in figures["replicas"]),
        "page_tokens": fleet.replicas[0].page_tokens,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "ttft_p50_s": figures["ttft"]["p50"],
        "tpot_p50_s": figures["tpot"]["p50"],
        "cached_share": figures["cached_share"],
    }


def main() -> None:
    """Run, print and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", type=Path, help="Mooncake's conversation trace")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--page-tokens", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.out is not None and options.out.exists():  # of what is not asked for now
        kept = json.loads(options.out.read_text())
        result = {name: figures for name, figures in kept.items() if isinstance(figures, dict)}
    if options.trace is not None:
        result["mooncake_8_replicas"] = production(options.trace, 512)
    if options.requests:
        name = "day" if options.page_tokens == 16 else "day_large_pages"
        result[name] = day(options.requests, options.page_tokens)
    keep(result, options.out)


if __name__ == "__main__":
    main()
