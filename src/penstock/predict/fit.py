"""Finds a step time's parameters from observed spans: bounded least squares, and its bootstrap.

Every parameter is a cost at least as large as physics allows: an efficiency's inverse is never
under 1, an overhead never under 0. Residuals are relative and weighed softly, so that spans in
which something else happened (a preemption, a pause) count little. A weak pull towards the
documented defaults decides only what the observations leave open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from penstock.predict.observe import Floats, Spans
from penstock.predict.steptime import Costs, StepLoad, Work, terms

PULL = 0.005  # of one doubt's distance from a default, in relative residuals of all spans
SOFT = 0.03  # relative residuals beyond this count less than their square (soft L1)
BLOCKS = 20  # consecutive spans share steps, so the bootstrap draws blocks of them
DRAWS = 60
HELD_OUT = 0.3  # of the time: the last part, on which the error is measured


Rows = npt.NDArray[np.intp]


class Priced(Protocol):
    """A step time that is linear in its costs."""

    costs: Costs

    def work(self, load: StepLoad) -> Work:
        """The step's work, in the units that the costs price."""
        ...


class Bounded(NamedTuple):
    """A parameter to fit: the entry of `Costs`, its default, and the least it may be.

    `doubt` says how far the truth may be from the default, as a share of it.
    The entries of `alike` are held equal to it.
    """

    name: str
    start: float
    least: float
    doubt: float
    alike: tuple[str, ...] = ()


class Fit(msgspec.Struct, kw_only=True):
    """Fitted costs, their bootstrap replicates, and how well they predict what they did not see.

    `spread` is the standard deviation of log(measured / predicted) that no
    parameter explains, over blocks of spans and from past to future. `scales`
    are draws of it, one for each replicate.
    `held_out_error` is the sum of |predicted - measured| seconds over the
    measured ones, of the spans in the last part of the time with costs fitted
    to the part before; `bias` the same with sign, `coverage` the share of blocks of
    those spans whose seconds lie within the 90 % interval.
    """

    costs: Costs
    draws: list[Costs]
    scales: list[float]
    spans: int
    held_out_error: float
    bias: float
    coverage: float
    spread: float

    @property
    def likely(self) -> list[Costs]:
        """The replicates, each scaled by its draw of the spread: for intervals of predictions."""
        return [draw.times(scale) for draw, scale in zip(self.draws, self.scales, strict=True)]


def fit(step: Priced, spans: Spans, free: Sequence[Bounded], *, seed: int = 0) -> Fit:
    """Fit the `free` costs, the others as they are in `step`.

    Raises `ValueError` with fewer than ten spans.
    """
    if len(spans.seconds) < 10:
        raise ValueError(
            f"{len(spans.seconds)} spans of steps are too few to fit {len(free)} parameters: "
            "calibrate from a run with more requests."
        )
    rng = np.random.default_rng(seed)
    whole = _Problem(step, spans, free)
    costs = whole.solve(np.arange(len(spans.seconds)))
    everything = _blocks(spans.ended, np.arange(len(spans.seconds)))
    draws = [whole.solve(rows, costs) for rows in _resampled(everything, rng)]
    held_out = spans.ended > spans.ended[0] + (1 - HELD_OUT) * np.ptp(spans.ended)
    before, after = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    measured, guessed = spans.seconds[after], whole.seconds(whole.solve(before))[after]
    bias = float(guessed.sum() / measured.sum() - 1)
    # Two looks at what no parameter explains: how blocks differ, and how far off the future was.
    spread = math.sqrt((whole.spread(costs, everything) ** 2 + bias**2) / 2)
    return Fit(
        costs=costs,
        draws=draws,
        scales=np.exp(rng.normal(0, spread, len(draws))).tolist(),
        spans=len(spans.seconds),
        held_out_error=float(np.abs(guessed - measured).sum() / measured.sum()),
        bias=bias,
        coverage=_coverage(whole, spans.ended, before, after, rng),
        spread=spread,
    )


class _Problem:
    """The observations as arrays, so that a trial of parameters costs microseconds a span."""

    def __init__(self, step: Priced, spans: Spans, free: Sequence[Bounded]) -> None:
        self.base, self.free = step.costs, free
        self.measured, self.requests = spans.seconds, spans.requests
        rows, times, works = [], [], []
        for row in range(len(spans.seconds)):
            for count, load in spans.loads(row):
                rows.append(row)
                times.append(count)
                works.append(step.work(load))
        self.row, self.times = np.array(rows), np.array(times)
        self.work = Work(*(np.array(part, dtype=float) for part in zip(*works, strict=True)))
        self.start = np.array([max(each.start, each.least, 1e-12) for each in free])
        self.least = np.array([each.least for each in free])
        self.doubt = np.array([each.doubt for each in free])

    def seconds(self, costs: Costs) -> Floats:
        """Predicted seconds of every span."""
        each = sum(terms(self.work, costs).values()) * self.times
        total = np.bincount(self.row, weights=each, minlength=len(self.measured))
        return total + self.requests * costs.request

    def solve(self, rows: Rows, near: Costs | None = None) -> Costs:
        """The costs that fit these rows best; a row may be given more than once.

        The search begins at `near`, or at the defaults.
        """
        # Each second counts alike, whether one long span or many short ones tell of it.
        weight = np.bincount(rows, minlength=len(self.measured)) * self.measured
        scale = np.sqrt(weight / weight.sum())

        def residuals(factors: Floats) -> Floats:
            found = self._costs(factors * self.start)
            relative = self.seconds(found) / self.measured - 1
            # Soft L1 by hand, so that the pull stays a plain square.
            soft = np.sqrt(2 * (np.sqrt(1 + (relative / SOFT) ** 2) - 1)) * SOFT
            return np.append(scale * np.sign(relative) * soft, PULL * (factors - 1) / self.doubt)

        begin = np.ones(len(self.free))
        if near is not None:
            begin = np.array([getattr(near, each.name) for each in self.free]) / self.start
        least = self.least / self.start
        begin = np.maximum(begin, least + 1e-6)
        found = least_squares(residuals, begin, bounds=(least, np.inf), ftol=1e-5, xtol=1e-5)
        return self._costs(found.x * self.start)

    def spread(self, costs: Costs, blocks: Sequence[Rows]) -> float:
        """Standard deviation of log(measured / predicted) over blocks, by their median deviation.

        A block in which something else happened (the first steps of a cold server) is no measure
        of the others, so 1.48 times the median absolute deviation stands for it.
        """
        predicted = self.seconds(costs)
        logs = [np.log(self.measured[rows].sum() / predicted[rows].sum()) for rows in blocks]
        return float(1.4826 * np.median(np.abs(logs)))

    def _costs(self, values: Floats) -> Costs:
        named = {
            name: float(value)
            for each, value in zip(self.free, values, strict=True)
            for name in (each.name, *each.alike)
        }
        return msgspec.structs.replace(self.base, **named)


def _blocks(ended: Floats, rows: Rows) -> list[Rows]:
    """The rows by equal parts of the time: neighbours share steps."""
    times = ended[rows]
    part = (times - times.min()) / max(float(np.ptp(times)), 1e-9) * BLOCKS
    index = np.minimum(part.astype(int), BLOCKS - 1)
    return [rows[index == i] for i in np.unique(index)]


def _resampled(blocks: Sequence[Rows], rng: np.random.Generator) -> list[Rows]:
    """Rows of a block bootstrap (Künsch 1989): whole blocks, drawn with replacement."""
    picks = rng.integers(len(blocks), size=(DRAWS, len(blocks)))
    return [np.concatenate([blocks[i] for i in pick]) for pick in picks]


def _coverage(
    problem: _Problem, ended: Floats, before: Rows, after: Rows, rng: np.random.Generator
) -> float:
    """Share of later blocks whose seconds lie within 90 % intervals told from earlier ones."""
    past = _blocks(ended, before)
    fitted = problem.solve(before)
    drawn = [problem.solve(rows, fitted) for rows in _resampled(past, rng)]
    noise = problem.spread(fitted, past)
    parts = _blocks(ended, after)
    guesses = np.array([[problem.seconds(costs)[rows].sum() for rows in parts] for costs in drawn])
    guesses *= np.exp(rng.normal(0, noise, size=(len(drawn), 1)))
    low, high = np.quantile(guesses, [0.05, 0.95], axis=0)
    actual = np.array([problem.measured[rows].sum() for rows in parts])
    return float(np.mean((low <= actual) & (actual <= high)))


def interval(
    fitted: Fit, answer: Callable[[Costs], float], confidence: float = 0.9
) -> tuple[float, float]:
    """The interval of anything that is computed from costs: what all likely ones answer."""
    answers = [answer(costs) for costs in fitted.likely]
    low, high = np.quantile(answers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
