"""What is read off a workload, and how much better it could be."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.common import spread
from benchmarks.peers.base import Load, Running, Setting
from benchmarks.peers.ceiling import Least, Rates, answers, costs, prompts
from penstock.predict.roofline import Shape

Make = Callable[[str], Load]


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked, of which checkpoint, how often; a request may take `limit_s`."""

    letter: str
    load: Make  # by seed
    config: dict[str, Any]
    rounds: int
    limit_s: float


# By name: whether more is better. Seconds to the first token, output tokens per second.
FIGURES = {"ttft_s": False, "decode_tokens_per_s": True, "tokens_per_s": True}
FIRSTS = 3  # requests for one token in each round of A: they are short, and vary


def timed(running: Running, setting: Setting, work: Work, seed: str) -> dict[str, float]:
    """Run a workload once; its figures. Raises `NotMeasured`."""
    load = work.load(seed)
    if work.letter == "P":
        return {"ttft_s": running.run(load, work.limit_s)}
    if work.letter == "A":
        firsts = [_first(work.load(f"{seed} first {i}")) for i in range(FIRSTS)]
        ttft = statistics.median(running.run(first, work.limit_s) for first in firsts)
        further = running.run(load, work.limit_s) - ttft
        return {"ttft_s": ttft, "decode_tokens_per_s": (load.outputs[0] - 1) / further}
    primes = setting.primed and load.shared > 0
    seconds = running.run(load.primer(), work.limit_s) if primes else 0.0
    seconds += running.run(load, work.limit_s)
    return {"tokens_per_s": sum(load.outputs) / seconds}


def limits(work: Work, setting: Setting, facts: dict[str, Any], rates: Rates) -> dict[str, Least]:
    """The least seconds for what each figure of a workload times.

    Where an engine tells what a step reads, that is taken instead of our reckoning.
    """
    load, shape = work.load("0"), _told(costs(work.config, setting), facts)
    first, further = prompts(shape, load), answers(shape, load)
    match work.letter:
        case "A":
            parts = {"ttft_s": first, "decode_tokens_per_s": further}
        case "P":
            parts = {"ttft_s": first}
        case _:
            parts = {"tokens_per_s": first + further}
    return {name: part.least(setting.arithmetic, rates) for name, part in parts.items()}


def figure(name: str, values: list[float], load: Load, limit: Least) -> dict[str, Any]:
    """Median and spread, the ceiling in the same unit, and how much of it was reached."""
    found = spread(values)
    if not FIGURES[name]:
        seconds, ceiling = found["median"], limit.summed
    else:
        # The first token of A comes before its decode is timed.
        tokens = sum(load.outputs) - (name == "decode_tokens_per_s")
        seconds, ceiling = tokens / found["median"], tokens / limit.summed
    return {**found, "limit": round(ceiling, 4), **limit.fractions(seconds)}


def _first(load: Load) -> Load:
    """The same prompts, one token wanted."""
    return Load(load.prompts, [1] * len(load.prompts), load.shared)


def _told(shape: Shape, facts: dict[str, Any]) -> Shape:
    fields = {
        name: facts.get(name, getattr(shape, name))
        for name in ("weight_bytes", "kv_bytes_per_token")
    }
    return Shape(
        **fields,
        flops_per_token=shape.flops_per_token,
        head_flops=shape.head_flops,
        attention_flops=shape.attention_flops,
    )
