"""How fast a checkpoint is on this machine, beside the one it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import msgspec

from penstock.compress.desk import Progress, unwatched
from penstock.engine.facts import SINGLE_THREAD_BYTES
from penstock.engine.llm import LLM
from penstock.engine.request import ModelFacts, SamplingParams

BATCHES = (1, 16)  # sequences at once
ROUNDS = 3


class Load(msgspec.Struct, frozen=True):
    """What is asked for: so many sequences at once, tokens of prompt and of output of each."""

    sequences: int
    prompt: int
    output: int

    @property
    def counted(self) -> int:
        """The tokens its speed is of: those of the output, or of a prompt that is only read."""
        return self.sequences * (self.output if self.output > 1 else self.prompt)


WRITING = tuple(Load(batch, 32, 32) for batch in BATCHES)
READING = (Load(1, 512, 1),)


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second with so many sequences at once: median, least, most of the rounds.

    They are output tokens, prompts being read within the time, or those of a prompt.
    """

    sequences: int
    median: float
    least: float
    most: float


def speeds(
    models: Mapping[str, LLM],
    progress: Progress = unwatched,
    loads: Sequence[Load] = WRITING,
    rounds: int = ROUNDS,
) -> dict[str, list[Speed]]:
    """Measure each model, all in turn in every round, so that what disturbs one disturbs all.

    A speed for each of `loads`; prompts that a model has no room for are cut.
    """
    seen: dict[tuple[str, Load], list[float]] = {}
    total = rounds * len(loads) * len(models)
    for turn in range(rounds + 1):  # the first warms up
        for load in loads:
            for name, llm in models.items():
                found = rate(llm, load, seed=turn)
                if turn:
                    seen.setdefault((name, load), []).append(found)
                    progress("speed", sum(map(len, seen.values())), total)
    return {
        name: [
            Speed(load.sequences, statistics.median(rates), min(rates), max(rates))
            for load in loads
            for rates in [seen[name, load]]
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


def rate(llm: LLM, load: Load, seed: int) -> float:
    """Tokens per second of one load; another `seed`, other prompts."""
    facts = llm.engine.facts
    room = min(load.prompt, facts.max_model_len - load.output)
    load = msgspec.structs.replace(load, prompt=room)
    # No load's prompts begin another's, which would be found in the cache.
    first = seed * 7919 + load.prompt * 1009 + load.sequences * 13
    prompts = [
        [(first + row * 104_729 + i * 31) % facts.vocab_size for i in range(load.prompt)]
        for row in range(load.sequences)
    ]
    params = SamplingParams(temperature=0.0, max_tokens=load.output, ignore_eos=True)
    began = time.perf_counter()
    llm.generate(prompts, params)
    return load.counted / (time.perf_counter() - began)
