"""How fast a checkpoint is on this machine, beside the one it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import msgspec

from penstock.compress.desk import Progress, unwatched
from penstock.engine.facts import SINGLE_THREAD_BYTES
from penstock.engine.llm import LLM
from penstock.engine.request import ModelFacts, SamplingParams

BATCHES = (1, 16)  # sequences at once
PROMPT, OUTPUT = 32, 32  # tokens
ROUNDS = 3


class Speed(msgspec.Struct, frozen=True):
    """Output tokens per second with so many sequences at once: median, least, most of the rounds.

    Prompts are read within the time.
    """

    sequences: int
    median: float
    least: float
    most: float


def speeds(models: Mapping[str, LLM], progress: Progress = unwatched) -> dict[str, list[Speed]]:
    """Measure each model, all in turn in every round, so that what disturbs one disturbs all."""
    seen: dict[tuple[str, int], list[float]] = {}
    total = ROUNDS * len(BATCHES) * len(models)
    for turn in range(ROUNDS + 1):  # the first warms up
        for batch in BATCHES:
            for name, llm in models.items():
                rate = _rate(llm, batch, seed=turn)
                if turn:
                    seen.setdefault((name, batch), []).append(rate)
                    progress("speed", sum(map(len, seen.values())), total)
    return {
        name: [
            Speed(batch, statistics.median(rates), min(rates), max(rates))
            for batch in BATCHES
            for rates in [seen[name, batch]]
        ]
        for name in models
    }


def meaning(facts: ModelFacts) -> str:
    """What a speed of this model says."""
    if facts.synthetic:
        return "random weights at a real shape: the speed is real, the answers are noise"
    if facts.weight_bytes < SINGLE_THREAD_BYTES:
        return (
            f"{facts.weight_bytes / 1e6:.0f} MB of weights stay in a processor's caches: this "
            "speed says little of large models: measure those at real shapes (penstock models make)"
        )
    return "trained weights at their own shape"


def _rate(llm: LLM, batch: int, seed: int) -> float:
    vocabulary = llm.engine.facts.vocab_size
    prompts = [
        [(seed * 7919 + row * 104_729 + i * 31) % vocabulary for i in range(PROMPT)]
        for row in range(batch)
    ]
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    began = time.perf_counter()
    llm.generate(prompts, params)
    return batch * OUTPUT / (time.perf_counter() - began)
