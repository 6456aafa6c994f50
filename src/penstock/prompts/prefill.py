"""How long a prompt takes through a model that does nothing else: measured, or as told."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from statistics import median

import msgspec
import numpy as np

from penstock.engine.engine import Engine
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.engine.speculate.lengths import StepTable
from penstock.predict.steptime import StepLoad, StepTime, chunk_pairs
from penstock.prompts.surprise import ASKED, windows

# Seconds from a prompt's first step to its first token, by its tokens.
Prefill = Callable[[int], float]

ANSWERED = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
# Tokens of steps that are not full, and shares of a full one: measured too.
_FEW, _SHARES = (1, 8, 16, 32), (1 / 8, 1 / 4, 1 / 2, 3 / 4)
_LONG = 2048  # tokens of the long prompt: full steps with others before them


class MeasuredPrefill(msgspec.Struct, frozen=True):
    """Steps of at most `step` tokens: `seconds` by `rows`, and `pair_s` for each earlier token.

    A chunk of r tokens after s others takes table(r) + pair_s r s: what each of its
    tokens pays for reading those before it. With `context` it is the time of rating a
    prompt, in the windows of a model that holds so much.
    """

    rows: list[int]
    seconds: list[float]
    pair_s: float
    step: int
    context: int | None = None

    def __call__(self, tokens: int) -> float:
        """Seconds for a prompt of so many tokens."""
        if self.context is None:
            return self._whole(tokens)
        return sum(self._whole(w.end - w.start) for w in windows(tokens, self.context))

    def _whole(self, tokens: int) -> float:
        table = StepTable(self.rows, self.seconds)
        starts = range(0, tokens, self.step)
        chunks = [(start, min(self.step, tokens - start)) for start in starts]
        return sum(table(rows) + self.pair_s * rows * start for start, rows in chunks)


def measured(engine: Engine, *, rates: bool = False, rounds: int = 3) -> MeasuredPrefill:
    """Measure an engine that is idle, on prompts of random tokens; medians of `rounds`.

    With `rates` it is asked for the log probabilities of the prompt, as a scorer is.
    """
    about, step = engine.facts, engine.scheduler.policy.max_step_tokens
    most = min(max(_LONG, 3 * step), about.max_model_len - 2, engine.scheduler.limits.capacity - 2)
    rows = sorted({*_FEW, *(round(share * step) for share in _SHARES)} & set(range(1, step)))
    params = ASKED if rates else ANSWERED
    _steps(engine, most, params)  # sets the kernels up
    short = [[_steps(engine, count, params)[0] for count in rows] for _ in range(rounds)]
    long = np.median([_steps(engine, most, params)[: most // step] for _ in range(rounds)], axis=0)
    starts = step * np.arange(len(long))
    slope, full = np.polyfit(starts, long, 1) if len(long) > 1 else (0.0, long[0])
    return MeasuredPrefill(
        rows=[*rows, step],
        seconds=[*(median(times) for times in zip(*short, strict=True)), float(full)],
        pair_s=max(0.0, float(slope)) / step,
        step=step,
        context=about.max_model_len if rates else None,
    )


def _steps(engine: Engine, tokens: int, params: SamplingParams) -> list[float]:
    """Seconds of each step that a prompt of random tokens takes alone."""
    draw = Random(time.perf_counter_ns())  # never one that a cache knows
    prompt = [draw.randrange(engine.facts.vocab_size) for _ in range(tokens)]
    engine.submit(GenerateRequest(id=f"prefill-{draw.random()}", prompt=prompt, params=params))
    found = []
    while engine.has_work:
        began = time.perf_counter()
        engine.step()
        found.append(time.perf_counter() - began)
    return found


def told(step: StepTime, most: int = 2048) -> Prefill:
    """The prefill of a server whose step time is known, in chunks of `most` tokens."""

    def seconds(tokens: int) -> float:
        ends = [min(start + most, tokens) for start in range(0, tokens, most)]
        return sum(
            step.seconds(
                StepLoad(
                    prefill_tokens=end - start,
                    prefill_pairs=chunk_pairs(start, end),
                    logits=float(end == tokens),
                )
            )
            for start, end in zip(range(0, tokens, most), ends, strict=True)
        )

    return seconds


def steady(tokens_per_s: float) -> Prefill:
    """A prefill of so many tokens a second, however long the prompt."""
    return lambda tokens: tokens / tokens_per_s
