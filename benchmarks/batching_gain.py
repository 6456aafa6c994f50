"""What continuous batching and the KV cache are worth, against theory.

Continuous against static batching: same requests, same kernels, same number
of rows, interleaved. A static batch runs until its longest answer ends, so
its rows work for the sum of (longest x rows) tokens where the sum of lengths
was wanted: that quotient is the gain to expect of an endless queue. Here the
queue ends, and continuous batching runs out of rows to fill before its last
answers end; the ratio of steps taken counts that drain in.

KV cache on and off: one request at a time. Without a cache the n-th token
costs a pass over n tokens, so the gain grows with length.

    python -m benchmarks.batching_gain
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from benchmarks.common import arguments, conditions, publish, requests, serve, spread
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions

ROWS = 16
PROMPT = 16
BATCHES = 12


def lengths(shape: str, seed: int) -> list[int]:
    """Output lengths of `BATCHES` full batches, mean 96 tokens."""
    rng = random.Random(seed)
    count = ROWS * BATCHES
    if shape == "equal":
        return [96] * count
    if shape == "uniform":
        return [rng.randint(1, 191) for _ in range(count)]
    return [min(1 + int(rng.expovariate(1 / 95)), 480) for _ in range(count)]


def expected_gain(wanted: list[int]) -> float:
    """Tokens that static rows compute, padding included, over the tokens wanted."""
    batches = [wanted[i : i + ROWS] for i in range(0, len(wanted), ROWS)]
    return sum(max(batch) * ROWS for batch in batches) / sum(wanted)


def batching(model: str, rounds: int) -> dict[str, Any]:
    """Throughput of static and continuous batching in alternation."""
    options = EngineOptions(max_running=ROWS, max_step_tokens=512, kv_tokens=ROWS * 544)
    static = Engine.load(model, msgspec.structs.replace(options, batching="static"))
    continuous = Engine.load(model, options)
    out: dict[str, Any] = {}
    for shape in ("equal", "uniform", "exponential"):
        gains: list[float] = []
        steps: list[float] = []
        expected: list[float] = []
        speeds: dict[str, list[float]] = {"static": [], "continuous": []}
        for seed in range(rounds):
            wanted = lengths(shape, seed)
            before = static.stats().steps, continuous.stats().steps
            seconds = {
                "static": serve(static, requests(static, wanted, PROMPT, seed)),
                "continuous": serve(continuous, requests(continuous, wanted, PROMPT, seed)),
            }
            for name, spent in seconds.items():
                speeds[name].append(sum(wanted) / spent)
            after = static.stats().steps, continuous.stats().steps
            steps.append((after[0] - before[0]) / (after[1] - before[1]))
            gains.append(seconds["static"] / seconds["continuous"])
            expected.append(expected_gain(wanted))
        out[shape] = {
            "gain": spread(gains),
            "expected_longest_over_mean": spread(expected),
            "ratio_of_steps": spread(steps),
            "static_output_tokens_per_s": spread(speeds["static"]),
            "continuous_output_tokens_per_s": spread(speeds["continuous"]),
        }
    out["conditions"] = conditions(continuous) | {
        "rows": ROWS,
        "prompt_tokens": PROMPT,
        "requests": ROWS * BATCHES,
        "arrivals": "all at once",
    }
    return out


def kv_cache(model: str, rounds: int) -> dict[str, Any]:
    """Speed of one request with and without a KV cache, by output length."""
    with_cache = Engine.load(model, EngineOptions(max_running=1, kv_tokens=2048))
    without = Engine.load(model, EngineOptions(max_running=1, kv_tokens=2048, kv_cache=False))
    out: dict[str, Any] = {}
    for length in (32, 128, 512):
        gains, on, off = [], [], []
        for seed in range(rounds):
            on.append(length / serve(with_cache, requests(with_cache, [length], PROMPT, seed)))
            off.append(length / serve(without, requests(without, [length], PROMPT, seed)))
            gains.append(on[-1] / off[-1])
        out[str(length)] = {
            "gain": spread(gains),
            "on_tokens_per_s": spread(on),
            "off_tokens_per_s": spread(off),
        }
    out["conditions"] = conditions(with_cache) | {"concurrency": 1, "prompt_tokens": PROMPT}
    return out


def main() -> None:
    """Run both and publish."""
    given = arguments(__doc__).parse_args()
    result = {
        "batching": batching(given.model, given.rounds),
        "kv_cache": kv_cache(given.model, given.rounds),
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
