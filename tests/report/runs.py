"""Synthetic runs: what a closed or open loop against a made-up server would have recorded."""

from __future__ import annotations

import numpy as np

from penstock.predict import Hardware, limit_for
from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point, Run
from penstock.record.summary import summarise

FACTS = {
    "device": "cpu",
    "dtype": "fp32",
    "precision": "fp32",
    "compute": "fp32",
    "weight_bytes": 27_800_000,
    "flops_per_token": 13_900_000,
    "head_flops": 2_600_000,
    "attention_flops": 8_192,
    "kv_bytes_per_token": 4_096,
    "pages": 4096,
    "page_size": 16,
}
HARDWARE = Hardware(
    device="cpu",
    cores=2,
    working_set_bytes=27_800_000,
    read_bytes_per_s=45e9,
    peak_flops={"fp32": 420e9},
)
CONDITIONS = {
    "model": "embedded",
    "precision": "fp32",
    "hardware": "2 CPU cores, 24 GB",
    "target": "penstock 0.1.0",
    "prompts": "held-out standard library, 64-512 tokens",
    "output_tokens": "16-128, stops allowed",
    "cache_state": "cold, prefixes unshared",
    "warm_up": "16 requests, not drained",
    "token_counts": "server usage",
    "sampling": "greedy",
    "server_version": None,
}


def closed_point(
    concurrency: int, requests: int = 120, seed: int = 0, failures: int = 0, tokens: int = 72
) -> Point:
    """`concurrency` slots, each sending its next request when the last one ended."""
    rng = np.random.default_rng(seed + concurrency)
    step = 2.4e6 * (1 + concurrency / 14)  # ns
    free = [1_000_000_000 + int(rng.integers(0, 1000)) for _ in range(concurrency)]
    records = []
    for i in range(requests):
        slot = int(np.argmin(free))
        sched = free[slot]
        sent = sched + int(rng.gamma(2, 60_000))
        prompt = int(rng.integers(64, 512))
        output = int(rng.integers(max(2, tokens // 4), 2 * tokens))
        first = sent + int(prompt * 35_000 * (1 + concurrency / 10) + rng.gamma(2, step))
        gaps = rng.gamma(9, step / 9, output - 1).astype(int)
        events = [first, *(first + np.cumsum(gaps)).tolist()]
        failed = i % max(1, requests // max(failures, 1)) == 5 if failures else False
        records.append(
            Record(
                request_id=f"r{i}",
                outcome=Outcome.FAILED if failed else Outcome.FINISHED,
                error="http_503: overloaded, try <b>later</b>" if failed else None,
                sched_ns=sched,
                sent_ns=sent,
                first_ns=first,
                last_ns=events[-1],
                end_ns=events[-1] + 100_000,
                event_ns=events,
                event_tokens=[1] * output,
                prompt_tokens=prompt,
                prompt_tokens_asked=prompt,
                cached_tokens=0,
                output_tokens=output,
                output_tokens_asked=output,
                words=int(output * 0.62),
                finish_reason="length",
                counted_by="server usage",
                laid_by="token ids",
            )
        )
        free[slot] = events[-1] + 120_000
    load = Load(kind="closed", concurrency=concurrency)
    return Point(
        load=load,
        start_ns=1_000_000_000,
        stop_ns=min(free),
        end_ns=max(free),
        warmup=concurrency,
        conditions={**CONDITIONS, "concurrency": concurrency},
        limit=limit_for(
            FACTS, {"kind": "closed", "concurrency": concurrency}, 324.0, 4.0, HARDWARE
        ),
        records=records,
    )


def open_point(rate: float, requests: int = 100, seed: int = 0) -> Point:
    """Poisson arrivals at a server of unknown size, so without a limit."""
    point = closed_point(max(1, round(rate)), requests, seed)
    point.load = Load(kind="open", rate=rate)
    point.limit = limit_for(None, {"kind": "open", "rate": rate}, 324.0, 4.0, None)
    return point


def dead_point(concurrency: int = 4) -> Point:
    """A server that refuses everything."""
    point = closed_point(concurrency, 20)
    for record in point.records:
        record.outcome = Outcome.FAILED
        record.error = "connect: connection refused"
        record.first_ns = record.last_ns = None
        record.event_ns, record.event_tokens = [], []
        record.output_tokens = record.prompt_tokens = None
    return point


def make_run(*points: Point, **changes: object) -> Run:
    """A run of these points, summarised; by default batch 1, 4 and 16."""
    if not points:
        points = (closed_point(1, 60), closed_point(4, 160), closed_point(16, 400))
    run = Run(
        started="2026-01-02T03:04:05Z",
        target={"kind": "engine", "name": "embedded", "model": "embedded"},
        points=list(points),
        notes=["12 of 120 prompts were clipped to the model's context of 2,048 tokens."],
    )
    for name, value in changes.items():
        setattr(run, name, value)
    run.summary = {"run_dir": "runs/20260102-030405", "html": "runs/20260102-030405/report.html"}
    run.summary = summarise(run)
    return run
