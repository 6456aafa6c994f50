"""The scheduler alone under a virtual clock: a production trace, timed.

One replica serves Mooncake's conversation trace (12,031 requests, prefixes
from its block ids) with a fixed linear step time, pages enough for the
working set, and leaps on. What is timed is the Python of the scheduler and of
this loop; no model runs.

    python -m benchmarks.scheduler_speed --trace mooncake_conversation.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import msgspec

from penstock.schedule import Policy, Scheduler, Sequence

# A step takes SECONDS_PER_STEP plus SECONDS_PER_TOKEN for each token in it:
# roughly an 8 B model on one current data-centre GPU.
SECONDS_PER_STEP = 0.008
SECONDS_PER_TOKEN = 2e-5


class Row(msgspec.Struct):
    """One line of the trace; the timestamp is in ms, a block holds 512 tokens."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


def sequence(number: int, row: Row) -> Sequence:
    ids = row.hash_ids
    full = row.input_length // 512
    return Sequence(
        id=number,
        prompt=row.input_length,
        limit=row.input_length + row.output_length,
        keys=lambda page: ids[page] if page < full else None,
    )


def replay(rows: list[Row], pages: int, leaps: bool) -> dict[str, float]:
    """Serve the trace on one replica; return counts, virtual and real seconds."""
    policy = Policy(
        max_running=1024,
        max_step_tokens=8192,
        max_waiting=1 << 30,
        max_waiting_tokens=1 << 60,
    )
    scheduler = Scheduler(policy, pages=pages, page_size=512)
    started = time.perf_counter()
    now, plans, steps, arrived, finished = 0.0, 0, 0, 0, 0
    while arrived < len(rows) or scheduler.has_work:
        while arrived < len(rows) and rows[arrived].timestamp / 1e3 <= now:
            scheduler.add(sequence(arrived, rows[arrived]), now=now)
            arrived += 1
        until = rows[arrived].timestamp / 1e3 if arrived < len(rows) else float("inf")
        decode_s = SECONDS_PER_STEP + SECONDS_PER_TOKEN * scheduler.running
        limit = 1 << 30 if until == float("inf") else 1 + int((until - now) / decode_s)
        plan = scheduler.leap(limit if leaps else 1, now)
        if plan is None:
            now = until
            continue
        tokens = len(plan.decodes) + sum(c.end - c.start for c in plan.chunks)
        scheduler.apply(plan)
        now += plan.steps * (SECONDS_PER_STEP + SECONDS_PER_TOKEN * tokens)
        plans += 1
        steps += plan.steps
        finished += sum(e.reason == "length" for e in scheduler.ended)
        scheduler.ended.clear()
    elapsed = time.perf_counter() - started
    assert finished == len(rows)
    return {
        "requests": finished,
        "steps": steps,
        "plans": plans,
        "preemptions": scheduler.preemptions,
        "pages": pages,
        "virtual_s": round(now, 1),
        "elapsed_s": round(elapsed, 2),
        "us_per_plan": round(1e6 * elapsed / plans, 1),
    }


def main() -> None:
    """Run with leaps, then without, and print both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    decoder = msgspec.json.Decoder(Row)
    rows = [decoder.decode(line) for line in options.trace.read_bytes().splitlines()]
    result = {
        "leaps": replay(rows, options.pages, leaps=True),
        "walk": replay(rows, options.pages, leaps=False),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
