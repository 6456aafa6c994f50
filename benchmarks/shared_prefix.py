"""Many samples of one prompt: what sharing its prefix is worth in time and memory.

    penstock models make qwen3-0.6b
    python -m benchmarks.shared_prefix --rounds 1 --out benchmarks/results/shared_prefix.json

64 samples of one prompt of 512 random tokens, 64 tokens each, on int8 weights.
Every round runs each way once, in a process of its own, so that its peak of
memory is its own:

    shared    the prompt's KV is computed once and, in decoding, read once for all
    cached    the same with the prompt's pages in the cache beforehand
    apart     its KV is computed once, but every sample reads it for itself
    unshared  every sample computes, keeps and reads its own

Rounds are added to those that --out holds already, if its conditions are the
same. The text must be the same each time, or it is an error.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, conditions, publish, spread
from penstock.engine.engine import Engine
from penstock.engine.kernels.native.kernels import NativeKernels
from penstock.engine.kernels.native.step import NativeStep
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, SamplingParams

WAYS = ("shared", "cached", "apart", "unshared")
SAMPLES, PROMPT, OUTPUT = 64, 512, 64


class Apart(NativeKernels):
    """Decodes that share a prefix read it each for itself."""

    def step(self, batch: Any, config: Any, page_size: int, frequencies: Any) -> NativeStep:
        """As `NativeKernels.step`."""
        return NativeStep(batch, page_size, frequencies, cascade=False)


def run(model: str, way: str, threads: int) -> dict[str, Any]:
    """Serve the samples once, in this process."""
    engine = Engine.load(
        model,
        EngineOptions(
            dtype="bf16",
            weights="int8",
            kernels="native",
            threads=threads,
            max_running=SAMPLES,
            max_step_tokens=PROMPT + SAMPLES,
            kv_tokens=SAMPLES * (PROMPT + OUTPUT + 16),
            max_waiting_tokens=SAMPLES * PROMPT,
            prefix_sharing=way != "unshared",
        ),
    )
    if way == "apart":
        engine.decoder.kernels = Apart("int8")
    prompt = random.Random(0).choices(range(engine.facts.vocab_size), k=PROMPT)
    loaded = _resident("VmRSS")
    if way == "cached":
        _serve(engine, prompt, samples=1, seed=1)
    found = _serve(engine, prompt, samples=SAMPLES, seed=0)
    page = engine.facts.kv_bytes_per_token * engine.facts.page_size
    return {
        **found,
        "kv_bytes_peak": found["pages_held_peak"] * page,
        "resident_bytes_grown": _resident("VmRSS") - loaded,
        "resident_bytes_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "conditions": conditions(engine)
        | {
            "weights": engine.facts.precision,
            "kv": engine.facts.kv_dtype,
            "kv_bytes_per_token": engine.facts.kv_bytes_per_token,
            "page_size": engine.facts.page_size,
            "samples": SAMPLES,
            "prompt_tokens": PROMPT,
            "output_tokens": OUTPUT,
        },
    }


def _serve(engine: Engine, prompt: list[int], *, samples: int, seed: int) -> dict[str, Any]:
    params = SamplingParams(n=samples, max_tokens=OUTPUT, ignore_eos=True, seed=seed)
    before = engine.stats()
    started = first = time.perf_counter()
    engine.submit(GenerateRequest(id=f"{seed}", prompt=prompt, params=params))
    said: dict[int, list[int]] = {index: [] for index in range(samples)}
    peak = early = 0
    while engine.has_work:
        for delta in engine.step():
            if delta.error:
                raise RuntimeError(delta.error)
            said[delta.index] += delta.token_ids
        if not early and all(said.values()):
            first, early = time.perf_counter(), sum(map(len, said.values()))
        peak = max(peak, engine.stats().pages_held)
    ended, after = time.perf_counter(), engine.stats()
    return {
        "seconds": ended - started,
        "seconds_until_all_have_a_token": first - started,
        "tokens_per_s": samples * OUTPUT / (ended - started),
        "decode_tokens_per_s": (samples * OUTPUT - early) / (ended - first),
        "steps": after.steps - before.steps,
        "pages_held_peak": peak,
        "text": blake2b(json.dumps(said).encode(), digest_size=8).hexdigest(),
    }


def _resident(field: str) -> int:
    """Bytes of this process in memory, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def one_round(model: str, threads: int, ways: list[str]) -> dict[str, Any]:
    """Each way once, each in a process of its own."""
    found = {}
    for way in ways:
        command = (sys.executable, "-m", "benchmarks.shared_prefix", "--model", model)
        done = subprocess.run(
            [*command, "--threads", str(threads), "--way", way],
            check=True,
            stdout=subprocess.PIPE,
        )
        found[way] = json.loads(done.stdout)
        print(f"{way}: {found[way]['seconds']:.1f} s", file=sys.stderr)
    return found


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and ranges of the ways, and of their ratios within a round."""
    keys = ("tokens_per_s", "decode_tokens_per_s", "seconds", "seconds_until_all_have_a_token")
    memory = (
        "pages_held_peak",
        "kv_bytes_peak",
        "resident_bytes_grown",
        "resident_bytes_peak",
    )
    ratios = {
        f"{way} over {other}": [a[way]["seconds"] / a[other]["seconds"] for a in rounds]
        for way, other in (("unshared", "shared"), ("unshared", "cached"), ("apart", "shared"))
    }
    decoding = [
        r["shared"]["decode_tokens_per_s"] / r["apart"]["decode_tokens_per_s"] for r in rounds
    ]
    return {
        "throughput_ratios": {name: spread(values) for name, values in ratios.items()},
        "decode_ratio_of_the_cascade": spread(decoding),
        "ways": {
            way: {
                **{key: spread([r[way][key] for r in rounds]) for key in keys},
                **{key: max(r[way][key] for r in rounds) for key in memory},
            }
            for way in WAYS
        },
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(model="qwen3-0.6b", rounds=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # one, in this process
    given = parser.parse_args()
    if given.way:
        print(json.dumps(run(given.model, given.way, given.threads)))
        return
    held = json.loads(given.out.read_text()) if given.out and given.out.exists() else None
    rounds: list[dict[str, Any]] = held["rounds"] if held else []
    for _ in range(given.rounds):
        # In turn forwards and backwards, so that a drift of the machine favours nobody.
        ways = list(WAYS if len(rounds) % 2 == 0 else WAYS[::-1])
        found = one_round(given.model, given.threads, ways)
        told = [each.pop("conditions") for each in found.values()]
        if any(one != told[0] for one in told) or (held and held["conditions"] != told[0]):
            raise SystemExit("these rounds are not alike; name another --out")
        if len({each.pop("text") for each in found.values()}) > 1:
            raise SystemExit("the ways do not say the same: sharing changed the text")
        rounds.append(found)
    publish({**summary(rounds), "conditions": told[0], "rounds": rounds}, given.out)


if __name__ == "__main__":
    main()
