"""What an ablation found: figures with their spread, products, curves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.ablate.rungs import Claim
from penstock.ablate.setting import Shot
from penstock.record.stats import Interval


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Median, least and most over `n` rounds."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of one value or more."""
        middle = statistics.median(values)
        return cls(median=middle, low=min(values), high=max(values), n=len(values))


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds over all sequences of all rounds."""

    median: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency | None:
        """None where there is no value."""
        if not values:
            return None
        middle, tail = np.quantile(np.asarray(values), (0.5, 0.9))
        return cls(median=float(middle), p90=float(tail))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A rung beside the setting that it was added to, interleaved in the same rounds.

    `ratio` is of output tokens per second within a round.
    """

    over: str
    tokens_per_s: Figure
    base_tokens_per_s: Figure
    ratio: Figure


class Together(Step, frozen=True, kw_only=True):
    """A rung on top of all kept below it; `gain` is the product of kept ratios since the base."""

    gain: float
    kept: bool


class Same(msgspec.Struct, frozen=True, kw_only=True):
    """Texts beside those of the rung before: requests alike, and tokens before texts part."""

    requests: int
    same: int
    tokens: int
    same_tokens: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[list[int], list[int]]]) -> Same:
        """Of pairs of texts."""
        before = [_alike(a, b) for a, b in pairs]
        return cls(
            requests=len(pairs),
            same=sum(a == b for a, b in pairs),
            tokens=sum(len(a) for a, _ in pairs),
            same_tokens=sum(before),
        )


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: resident at most while serving, and the weights that one step reads."""

    peak_bytes: int
    weight_bytes: int


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting is worth on a trained model, beside fp32 and nothing else of the ladder.

    `loss` in nats a token of held-out text, `change` its share more than fp32's with
    a 95 % interval over rows, `doctests_right` a share of `doctests`.
    """

    model: str
    loss: float
    change: float
    change_ci95: Interval | None
    kl: float
    doctests_right: float | None
    doctests: int
    how: str


class RungResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rung. `cannot` says why it was not measured; then the figures are None.

    `quality` is of all that is kept up to this rung and the rung itself,
    `quality_alone` of a lossy rung as it is measured alone. `cost` is of a million
    output tokens, at the price of an hour of the machine.
    """

    name: str
    title: str
    exact: bool
    alone: Step | None
    together: Together | None
    tokens_per_s: Figure | None
    ttft: Latency | None
    tpot: Latency | None
    memory: Memory | None
    cost: float | None
    quality: Worth | None
    quality_alone: Worth | None
    outputs: Same | None
    claimed: Claim
    conditions: dict[str, Any]
    cannot: str | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A technique's gain with so many requests at once."""

    requests: int
    ratio: Figure


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A technique alone, over the number of requests at once."""

    name: str
    title: str
    over: str
    points: list[Point]


class Top(msgspec.Struct, frozen=True, kw_only=True):
    """All that was kept, beside the base: measured directly, and as products of the steps.

    `exact_measured` has only what is exact and bf16, in which our kernels compute,
    beside the base: there the product `exact` leaves out what bf16 took or gave.
    """

    over: str
    ratio: Figure
    steps: float
    exact: float
    lossy: float
    exact_measured: Step
    tokens_per_s: Figure
    base_tokens_per_s: Figure


class Ablation(msgspec.Struct, frozen=True, kw_only=True):
    """What `penstock ablate --json` prints."""

    model: str
    rungs: list[RungResult]
    top: Top
    curves: list[Curve]
    conditions: dict[str, Any]
    notes: list[str]


Pairs = Sequence[tuple[Shot, Shot]]  # below and above, by round


def step(over: str, pairs: Pairs) -> Step:
    """What came of a rung's rounds."""
    return Step(
        over=over,
        tokens_per_s=Figure.of([above.rate for _, above in pairs]),
        base_tokens_per_s=Figure.of([below.rate for below, _ in pairs]),
        ratio=Figure.of([above.rate / below.rate for below, above in pairs]),
    )


def pays(ratio: Figure, free: bool) -> bool:
    """Whether a rung stays under those to come.

    One that is `free` does unless it lost in every round. One that costs quality, or
    takes the place of another of its kind, does only if it won in every one.
    """
    return ratio.high >= 1 if free else ratio.low > 1


def _alike(a: list[int], b: list[int]) -> int:
    """Tokens before two texts part."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
