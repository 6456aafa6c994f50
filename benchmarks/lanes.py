"""Two engines that say the same texts and take turns after every few steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from penstock.engine.engine import Engine
from penstock.engine.request import GenerateRequest

MOST = 17  # tokens that a step may add to a text

Truths = dict[tuple[tuple[int, ...], int], list[int]]  # texts, prompt first, by prompt and seed


@dataclass
class Lane:
    """One engine on its way through the texts of `work`."""

    engine: Engine
    work: list[GenerateRequest]
    texts: dict[str, list[int]] = field(default_factory=dict)  # prompts included

    def begin(self, lead: int = 0) -> None:
        """Begin all texts anew and say at least so many tokens of each."""
        self._go_on({request.id: list(request.prompt) for request in self.work})
        while self.engine.scheduler.pending or self.said(min) < max(lead, 1):
            self.step()

    def join(self, other: Lane) -> None:
        """Go on from where the other is with each text."""
        self._go_on({name: text[:-1] for name, text in other.texts.items()})
        while self.engine.scheduler.pending:
            self.step()

    def _go_on(self, texts: dict[str, list[int]]) -> None:
        self.end()
        self.texts = texts
        for request in self.work:
            text = texts[request.id]
            left = (request.params.max_tokens or 0) - (len(text) - len(request.prompt))
            params = msgspec.structs.replace(request.params, max_tokens=left)
            self.engine.submit(msgspec.structs.replace(request, prompt=list(text), params=params))

    def end(self) -> None:
        """Leave the texts where they are."""
        for name in self.texts:
            self.engine.abort(name)
        while self.engine.has_work:
            self.engine.step()

    def said(self, which: Any) -> int:
        """Tokens of the shortest or longest text, its prompt not counted."""
        return int(which(map(len, self.texts.values()))) - len(self.work[0].prompt)

    def step(self) -> tuple[int, float]:
        """One step: tokens said, and seconds."""
        started = time.perf_counter()
        deltas = self.engine.step()
        seconds = time.perf_counter() - started
        for delta in deltas:
            if delta.error:
                raise RuntimeError(delta.error)
            self.texts[delta.request_id] += delta.token_ids
        return sum(len(delta.token_ids) for delta in deltas), seconds

    def block(self, steps: int) -> NDArray[np.float64]:
        """Tokens and seconds of so many steps, of fewer where a text might end in them."""
        sums = np.zeros(2)
        for _ in range(steps):
            if self.room:
                sums += self.step()
        return sums

    @property
    def room(self) -> bool:
        """Whether every text goes on for another step, however lucky it is."""
        return self.said(max) + MOST < (self.work[0].params.max_tokens or 0)

    def check(self, truths: Truths) -> None:
        """Raise `RuntimeError` where a text is not how it is without guesses."""
        for request in self.work:
            text = self.texts[request.id]
            if truths[tuple(request.prompt), request.params.seed or 0][: len(text)] != text:
                raise RuntimeError(f"request {request.id} said something else with guesses.")


def four(guessing: Lane, plain: Lane, steps: int) -> NDArray[np.float64]:
    """Tokens and seconds of the one, then of the other, of two blocks each: `[4]`.

    One, other, other, one: what grows evenly meanwhile is the same for both.
    """
    first, second = guessing.block(steps), plain.block(steps)
    second += plain.block(steps)
    first += guessing.block(steps)
    return np.concatenate([first, second])


def ratio(fours: NDArray[np.float64]) -> dict[str, float]:
    """Speed with guesses over speed without, and its 95 % interval.

    `fours` are `[count, 4]`, as of `four`. The interval is bootstrapped (BCa) over them.
    """

    def speedup(*sums: NDArray[np.float64], axis: int) -> Any:
        tokens, seconds, plain, plain_s = (each.sum(axis) for each in sums)
        return tokens / seconds / (plain / plain_s)

    found = stats.bootstrap(tuple(fours.T), speedup, paired=True, n_resamples=5000, rng=0)
    low, high = found.confidence_interval
    value = speedup(*fours.T, axis=0)
    each = {"ratio": value, "low95": low, "high95": high}
    return {name: round(float(figure), 4) for name, figure in each.items()}
