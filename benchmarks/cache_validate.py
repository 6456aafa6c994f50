"""Simulated hit rates held against those of the engine, on pieces of two real traces.

python -m benchmarks.cache_validate --traces DIR [--out FILE]

The embedded model holds 2,048 tokens, so traces are made smaller, not other: every length and
every block is divided by one factor, which keeps who shares how much of a prompt with whom.
Of Mooncake's trace one conversation in `ONE_IN` is taken, whole, over its hour (blocks of 512
tokens become 16, a page); of the agentic-coding trace the first sessions that fit (16
blocks of 64 tokens become one of 16). What is longer than the context even so is cut, and counted.

The meter sends the same prompts to the engine as text, in three ways: one at a time and four at
once, in the order of the recorded times and each as soon as a slot is free; and at the recorded
times, sped up (of sessions: one begins every second, thinks as recorded, and waits for its
answers). The simulator gets the same plan, with step times calibrated from one of the engine's
runs, the four at once on the largest pool. Counted are cached prompt tokens of all prompt tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tokenizers import Tokenizer

import penstock
from benchmarks.common import publish
from penstock import models
from penstock.engine.options import EngineOptions
from penstock.meter.driver import Drive, Limits
from penstock.predict.calibrate import calibrate
from penstock.predict.observe import from_records, spans
from penstock.predict.steptime import StepTime
from penstock.record.metrics import finished
from penstock.record.record import Record
from penstock.record.run import Load
from penstock.serve.inprocess import EngineTarget
from penstock.simulate import Fleet, Group, simulate
from penstock.simulate.pages import by_page
from penstock.workload.arrivals import Constant
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Plan
from penstock.workload.prompts import Prompts, held_out_stdlib
from penstock.workload.sessions import Recorded
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source
from penstock.workload.subset import subset
from penstock.workload.traces import Runs, Trace, read_trace

CONTEXT, PAGE = 2048, 16  # of the embedded model, and of the pool of the engine
ONE_IN = 64  # conversations of Mooncake's trace
FIRST, SESSIONS, TURNS = 6000, 10, 24  # of the agentic trace: rows read, sessions taken, at most
SIZES = (2048, 4096, 8192, 32768)  # tokens of KV; the last forgets nothing that comes again
SPEED = 300.0
Way = Callable[[Source, Trace], Plan]


def mooncake(path: Path) -> Trace:
    """One conversation in `ONE_IN`; the block after the common first one tells them apart."""
    trace = read_trace(path)
    assert trace.blocks is not None
    rows = [i for i, runs in enumerate(trace.blocks) if _second(runs) % ONE_IN == 0]
    return smaller(trace, rows, 512 // PAGE)


def _second(runs: Runs) -> int:
    ids = [id_ for start, stop in runs[:2] for id_ in range(start, min(stop, start + 2))]
    return ids[1] if len(ids) > 1 else 1


def agentic(path: Path) -> Trace:
    """Whole sessions of a few turns, from the first of the trace."""
    trace, _ = by_page(read_trace(path, FIRST), 1024)
    whole, factor = trace.prompt_tokens + trace.output_tokens, 1024 // PAGE
    fit = [
        rows
        for rows in (trace.sessions or [])[:-1]  # the last may go on beyond the rows read
        if 4 <= len(rows) <= TURNS and whole[rows].max() < factor * CONTEXT
    ]
    return smaller(trace, [row for rows in fit[:SESSIONS] for row in rows.tolist()], factor)


PIECES = {
    "mooncake": ("mooncake_conversation.jsonl", mooncake),
    "agentic": ("agentic_coding_requests.csv.gz", agentic),
}


def smaller(trace: Trace, rows: list[int], factor: int) -> Trace:
    """These rows, all lengths divided; a prompt has at least a token, an answer two."""
    piece = subset(trace, rows)
    return msgspec.structs.replace(
        piece,
        prompt_tokens=np.maximum(piece.prompt_tokens // factor, 1),
        output_tokens=np.maximum(piece.output_tokens // factor, 2),
        block_tokens=piece.block_tokens // factor,
    )


def at_once(count: int) -> Way:
    """Requests in the order of their times, one after the other in `count` slots."""

    def plan(source: Source, trace: Trace) -> Plan:
        alone = subset(trace, np.argsort(trace.at_s, kind="stable").tolist())
        made = source.replay(msgspec.structs.replace(alone, sessions=None), warmup=0)
        return msgspec.structs.replace(made, load=Load(kind="closed", concurrency=count))

    return plan


def as_recorded(speed: float) -> Way:
    """At the trace's times; of sessions, one begins every second and thinks as recorded."""

    def plan(source: Source, trace: Trace) -> Plan:
        if trace.sessions is None:
            return source.replay(trace, speed, warmup=0)
        source.shape = Recorded(trace, speed)
        return source.open(Constant(1.0), count=len(trace.sessions), warmup=0)

    return plan


def source_of(prompts: Prompts) -> Source:
    """Where plans come from: as text for the engine, as sketches for the simulator."""
    nothing = Lengths(kind="uniform", a=1, b=1)
    return Source(prompts=prompts, input_len=nothing, output_len=nothing, seed=0, context=CONTEXT)


def measured(plan: Plan, kv_tokens: int) -> list[Record]:
    """The plan as the engine served it, its cache empty at first."""

    async def run() -> list[Record]:
        target = EngineTarget("embedded", EngineOptions(kv_tokens=kv_tokens, threads=1))
        drive = Drive(target, plan, Limits(duration_s=120.0))
        try:
            await drive.run()
        finally:
            await target.close()
        return drive.records

    records = asyncio.run(run())
    if len(finished(records)) < len(records):
        error = next(record.error for record in records if record.error)
        raise RuntimeError(f"not every request finished: {error}")
    return records


def simulated(plan: Plan, kv_tokens: int, step: StepTime) -> list[Record]:
    """The same plan on a simulated engine with the same pool and policy."""
    group = Group(kv_tokens=kv_tokens, page_tokens=PAGE, policy={"preset": "penstock"})
    return simulate(Fleet(replicas=(group,)), plan, steps=(step,)).records()


def hit_rate(records: Iterable[Record]) -> float:
    """Cached prompt tokens of all prompt tokens."""
    rows = [(record.cached_tokens or 0, record.prompt_tokens or 0) for record in records]
    return sum(cached for cached, _ in rows) / sum(prompt for _, prompt in rows)


def validate(trace: Trace, sizes: Iterable[int] = SIZES) -> dict[str, Any]:
    """Every way of sending, on every size; from the largest pool down."""
    ways = {
        "four at once": at_once(4),
        "as recorded": as_recorded(SPEED),
        "one at a time": at_once(1),
    }
    tokenizer = Tokenizer.from_file(str(models.path("embedded") / "tokenizer.json"))
    texts = held_out_stdlib(salt="cache", seed=0, tokenizer=tokenizer)
    step: StepTime | None = None
    found: dict[str, Any] = {}
    for name, way in ways.items():
        asked, sketched = way(source_of(texts), trace), way(source_of(Sketches()), trace)
        rows = []
        for size in sorted(sizes, reverse=True):
            true = measured(asked, size)
            step = step or calibrate(spans(from_records(true), 512)).step
            guess = simulated(sketched, size, step)
            rows.append(_row(size, true, guess))
        found[name] = {"notes": asked.notes, "sizes": rows}
    return {"requests": len(trace), **found}


def _row(size: int, true: list[Record], guess: list[Record]) -> dict[str, Any]:
    there, here = hit_rate(true), hit_rate(guess)
    return {
        "kv_tokens": size,
        "requests": len(true),
        "prompt_tokens": sum(record.prompt_tokens or 0 for record in true),
        "measured": round(there, 4),
        "simulated": round(here, 4),
        "points": round(100 * (here - there), 2),
    }


def worst(found: dict[str, Any]) -> float:
    """The largest difference, in points."""
    ways = (way for way in found.values() if isinstance(way, dict))
    return max(abs(float(row["points"])) for way in ways for row in way["sizes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="the folder of the two traces")
    parser.add_argument("--only", choices=tuple(PIECES), help="one of them; --out keeps the other")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    if given.out is not None and given.out.exists():
        kept = json.loads(given.out.read_text())
        found = {name: kept[name] for name in PIECES if name in kept}
    for name, (file, piece) in PIECES.items():
        if given.only in (None, name):
            found[name] = validate(piece(given.traces / file))
    told = {
        "date": date.today().isoformat(),
        "penstock": penstock.__version__,
        "model": "embedded",
        "context": CONTEXT,
        "page_tokens": PAGE,
        "speed": SPEED,
    }
    points = {name: worst(each) for name, each in found.items()}
    publish({**found, "worst_points": points, "conditions": told}, given.out)


if __name__ == "__main__":
    main()
