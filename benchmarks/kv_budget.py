"""What a budget of KV costs in text, and what the pages that it frees are worth.

    penstock models make qwen3-0.6b
    python -m benchmarks.kv_budget --part copy --out benchmarks/results/kv_budget.json
    python -m benchmarks.kv_budget --part speed --out benchmarks/results/kv_budget.json

`copy`, on a small model that can copy (`benchmarks.copier`, trained first: some minutes): prompts
of 1,024 random tokens, with a passage of 48 at any place, end with its first 16 once more.
Greedy decoding is to go on with the other 32. Who gave up the passage cannot. Each budget
keeps the same number of tokens, whichever they are.

`speed`, on the 0.6 B shape in int8: long prompts and answers in a pool that holds two of them.
Each way in turn, forwards and backwards; rounds are added to those that --out holds.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, conditions, publish, requests, serve, spread
from benchmarks.copier import FIRST, VOCABULARY, copier
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.schedule.policy import Keep

KEEPS: tuple[Keep, ...] = ("snapkv", "streaming", "recent", "random")

PROMPT, PASSAGE, CUE = 1024, 48, 16
BUDGETS = (64, 128, 256, 512)  # tokens

REQUESTS, LONG, OUTPUT, POOL, KEPT = 8, 1024, 384, 3072, 256
WAYS: dict[str, dict[str, Any]] = {
    "all": {},
    "streaming": {"kv_budget": KEPT, "kv_keep": "streaming"},
    "snapkv": {"kv_budget": KEPT, "kv_keep": "snapkv"},
}


def tasks(count: int) -> list[tuple[list[int], list[int]]]:
    """Prompts, and the tokens that should follow."""
    rng, ids = random.Random(2026), range(FIRST, VOCABULARY)
    made = []
    for _ in range(count):
        passage = rng.choices(ids, k=PASSAGE)
        filler = [1, *rng.choices(ids, k=PROMPT - PASSAGE - CUE - 1)]
        at = rng.randrange(1, len(filler) + 1)
        made.append(([*filler[:at], *passage, *filler[at:], *passage[:CUE]], passage[CUE:]))
    return made


def copied(model: str, count: int, **options: Any) -> dict[str, Any]:
    """Share of tokens that are right, and of passages that are."""
    engine = Engine.load(model, EngineOptions(dtype="fp32", max_running=16, threads=1, **options))
    params = SamplingParams(temperature=0.0, max_tokens=PASSAGE - CUE, ignore_eos=True)
    said: dict[str, list[int]] = {}
    wanted = tasks(count)
    for i, (prompt, _) in enumerate(wanted):
        engine.submit(GenerateRequest(id=f"{i}", prompt=prompt, params=params))
    while engine.has_work:
        for delta in engine.step():
            said.setdefault(delta.request_id, []).extend(delta.token_ids)
    shares = [
        sum(ours == theirs for ours, theirs in zip(said[f"{i}"], truth, strict=True)) / len(truth)
        for i, (_, truth) in enumerate(wanted)
    ]
    return {
        "right": round(sum(shares) / count, 4),
        "whole": round(sum(share == 1.0 for share in shares) / count, 4),
        "dropped_tokens": engine.stats().dropped_tokens,
        "conditions": conditions(engine),
    }


def copy(directory: Path, count: int) -> dict[str, Any]:
    """Every policy at every budget, and with all KV kept."""
    model = str(copier(directory))
    found: dict[str, Any] = {"all": copied(model, count)}
    told = found["all"].pop("conditions")
    for budget in BUDGETS:
        for keep in KEEPS:
            name = f"{keep} {budget}"
            found[name] = copied(model, count, kv_budget=budget, kv_keep=keep)
            del found[name]["conditions"]
            print(name, found[name], file=sys.stderr)
    return {
        "results": found,
        "conditions": told
        | {
            "model": "copier",
            "tasks": count,
            "prompt_tokens": PROMPT,
            "passage": PASSAGE,
            "cue": CUE,
        },
    }


def timed(model: str, way: str, threads: int) -> dict[str, Any]:
    """Serve the requests once."""
    options = EngineOptions(
        dtype="bf16",
        weights="int8",
        kv="int8",
        threads=threads,
        kv_tokens=POOL,
        max_running=REQUESTS,
        **WAYS[way],
    )
    engine = Engine.load(model, options)
    work = requests(engine, [OUTPUT] * REQUESTS, LONG)
    seconds = serve(engine, work)
    stats = engine.stats()
    return {
        "seconds": seconds,
        "output_tokens_per_s": REQUESTS * OUTPUT / seconds,
        "preemptions": stats.preemptions,
        "steps": stats.steps,
        "conditions": conditions(engine)
        | {
            "weights": engine.facts.precision,
            "kv": engine.facts.kv_dtype,
            "requests": REQUESTS,
            "prompt_tokens": LONG,
            "output_tokens": OUTPUT,
            "pool_tokens": POOL,
            "kept_tokens": KEPT,
        },
    }


def speed(model: str, threads: int, rounds: int, held: dict[str, Any]) -> dict[str, Any]:
    """Rounds of every way, beside those that are `held`."""
    runs: list[dict[str, Any]] = held.get("rounds", [])
    told = held.get("conditions")
    for _ in range(rounds):
        found = {}
        for way in list(WAYS)[:: 1 if len(runs) % 2 == 0 else -1]:
            found[way] = timed(model, way, threads)
            print(f"{way}: {found[way]['seconds']:.1f} s", file=sys.stderr)
            here = found[way].pop("conditions")
            told = told or here
            if {**here, "date": told["date"]} != told:
                raise SystemExit("these rounds are not alike; name another --out")
        runs.append(found)
    return {
        "ratios_to_all": {
            way: spread([r["all"]["seconds"] / r[way]["seconds"] for r in runs]) for way in WAYS
        },
        "output_tokens_per_s": {
            way: spread([r[way]["output_tokens_per_s"] for r in runs]) for way in WAYS
        },
        "conditions": told,
        "rounds": runs,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(model="qwen3-0.6b", rounds=3)
    parser.add_argument("--part", choices=("copy", "speed"), required=True)
    parser.add_argument("--tasks", type=int, default=100, help="of the copy task")
    parser.add_argument("--copier", type=Path, help="where the copier is kept, or trained into")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    out: Path | None = given.out
    result = json.loads(out.read_text()) if out and out.exists() else {}
    if given.part == "copy":
        with tempfile.TemporaryDirectory() as folder:
            result["copy"] = copy(given.copier or Path(folder), given.tasks)
    else:
        held = result.get("speed", {})
        result["speed"] = speed(given.model, given.threads, given.rounds, held)
    publish(result, out)


if __name__ == "__main__":
    main()
