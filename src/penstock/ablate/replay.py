"""Acceptance of guesses, recorded where text means something and replayed where it does not.

A model of random weights says noise, and how often guesses of noise come true
means nothing. So on the embedded model every step's offer is noted, and how much
of it came true; on the real shape each step draws one of these, and the guesses
are set right and wrong accordingly. All else is done: a draft model runs,
guesses are verified, and as many are made as the engine thinks pay.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from penstock.compress.corpus import held_out
from penstock.engine.generation import Generation
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions, Speculate
from penstock.engine.request import SamplingParams
from penstock.engine.speculate.drafter import Drafter, Generations
from penstock.schedule import Sequence as Running

MOST = {"lookup": 16, "suffix": 16, "draft": 8}
PROMPT, OUTPUT, TEXTS = 128, 48, 32  # of the recording, in tokens and texts

Step = tuple[tuple[Hashable, ...], int]  # the kinds on offer, and how many came true


class Recorder:
    """Notes what a drafter offers in each step, and how much of it came true."""

    def __init__(self, inner: Drafter) -> None:
        self._inner = inner
        self.most = inner.most
        self.steps: list[Step] = []
        self._offered: dict[Running, tuple[Hashable, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def offer(self, sequence: Running, generation: Generation) -> list[Hashable]:
        """As the drafter's own."""
        kinds = self._inner.offer(sequence, generation)
        if not kinds:
            self.steps.append(((), 0))
        self._offered[sequence] = tuple(kinds)
        return kinds

    def learn(self, sequence: Running, generation: Generation, right: int) -> None:
        """As the drafter's own."""
        self.steps.append((self._offered[sequence], right))
        self._inner.learn(sequence, generation, right)


class Replay:
    """Offers what was recorded, and lets as much of it come true.

    `truths` are the texts that the model says anyway, prompt first, by prompt and
    seed. Where there is an inner drafter, it does its work; its guesses are
    overwritten.
    """

    def __init__(self, inner: Drafter | None, steps: Sequence[Step]) -> None:
        self._inner = inner
        self._steps = steps
        self._rng = Random(0)
        self._now: dict[Running, Step] = {}
        self.truths: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self.most = 16

    def offer(self, sequence: Running, generation: Generation) -> list[Hashable]:
        """The offer of some recorded step."""
        if self._inner is not None:
            self._inner.offer(sequence, generation)
        self._now[sequence] = step = self._rng.choice(self._steps)
        return list(step[0])

    def guess(self, counts: Mapping[Running, int], generations: Generations) -> None:
        """As many right guesses as the recorded step had, then wrong ones."""
        if self._inner is not None:
            self._inner.guess(counts, generations)
        for sequence, count in counts.items():
            generation = generations[sequence]
            text = self.truths[tuple(generation.request.prompt), generation.seed]
            truth = text[len(generation.tokens) :][:count]
            right = min(self._now[sequence][1], count)
            generation.guess = [t if i < right else t ^ 1 for i, t in enumerate(truth)]

    def learn(self, sequence: Running, generation: Generation, right: int) -> None:
        """As the inner drafter's."""
        if self._inner is not None:
            self._inner.learn(sequence, generation, right)

    def ended(self, sequence: Running, generation: Generation) -> None:
        """As the inner drafter's."""
        self._now.pop(sequence, None)
        if self._inner is not None:
            self._inner.ended(sequence, generation)

    def seconds(self, rows: int) -> float:
        """As the inner drafter's."""
        return 0.0 if self._inner is None else self._inner.seconds(rows)


def record(source: Speculate, temperature: float, file: Path) -> None:
    """Guess as much as there is to guess on held-out code, and write what came of each step."""
    llm = LLM("embedded", EngineOptions(max_running=8, speculate=source, draft_tokens=MOST[source]))
    assert llm.engine.speculator is not None
    recorder = Recorder(llm.engine.speculator.drafter)
    llm.engine.speculator.drafter = recorder
    rows = held_out(llm.tokenizer.encode, PROMPT - 1, TEXTS).tolist()
    params = [
        SamplingParams(temperature=temperature, seed=i, max_tokens=OUTPUT, ignore_eos=True)
        for i in range(len(rows))
    ]
    llm.generate(rows, params)
    file.write_bytes(msgspec.json.encode(recorder.steps))


def recorded(file: Path) -> list[Step]:
    """What `record` wrote."""
    found = msgspec.json.decode(file.read_bytes(), type=list[tuple[list[Any], int]])
    return [(tuple(_hashable(kind) for kind in kinds), right) for kinds, right in found]


def _hashable(kind: Any) -> Hashable:
    return tuple(_hashable(part) for part in kind) if isinstance(kind, list) else kind
