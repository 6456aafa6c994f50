"""When requests are wanted: `poisson:5`, `gamma:5,0.5`, `ramp:1-20,60`, `diurnal:5,0.8,3600`.

Offsets are seconds from the start of the load. The whole schedule is made
first, from one seed, and never shifted later, so that it does not depend on
who sends the load or on how the target keeps up. Gaps are not rescaled to end
at a given moment: the number of arrivals in a time varies as its law says.

Every kind is a stream of gaps of mean one, run through the inverse of the
expected number of arrivals by time t. For exponential gaps that is the exact
non-homogeneous Poisson process (Çinlar's inversion; no thinning needed).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import pi, sin

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.float64]
_CHUNK = 4096  # gaps drawn at a time; the stream is the same for every size
_BISECTIONS = 45  # halve a bracket of a day to below a nanosecond


class Arrival(ABC):
    """A law of arrivals; Poisson unless a subclass says otherwise."""

    @property
    def description(self) -> str:
        """For the conditions."""
        return f"Poisson at a changing rate, {self}"

    @abstractmethod
    def expected(self, seconds: float) -> float:
        """Arrivals to be expected in the first `seconds`."""

    @abstractmethod
    def when(self, count: Offsets) -> Offsets:
        """The inverse of `expected`: when so many have come."""

    @abstractmethod
    def scaled(self, factor: float) -> Arrival:
        """The same law with every rate multiplied."""

    def gaps(self, size: int, rng: np.random.Generator) -> Offsets:
        """Gaps in units of expected arrivals, of mean one."""
        return rng.standard_exponential(size)

    def mean_rate(self, seconds: float) -> float:
        """Requests/s over the first `seconds`."""
        return self.expected(seconds) / seconds

    def offsets(
        self, rng: np.random.Generator, *, count: int | None = None, seconds: float | None = None
    ) -> Offsets:
        """The first `count` arrivals, or those of the first `seconds`, or the fewer of both.

        A longer schedule of the same seed begins with the shorter one.
        """
        if count is None and seconds is None:
            raise ValueError("a schedule needs an end: give count, seconds or both")
        drawn = np.concatenate([np.empty(0), *self._drawn(rng, count, seconds)])
        offsets = self.when(np.cumsum(drawn)[:count])
        return offsets if seconds is None else offsets[offsets < seconds]

    def _drawn(
        self, rng: np.random.Generator, count: int | None, seconds: float | None
    ) -> Iterator[Offsets]:
        drawn, total = 0, 0.0
        until = np.inf if seconds is None else self.expected(seconds) + 1
        while total < until and (count is None or drawn < count):
            gaps = self.gaps(_CHUNK, rng)
            drawn, total = drawn + _CHUNK, total + float(gaps.sum())
            yield gaps


@dataclass(frozen=True)
class Poisson(Arrival):
    """Independent users: exponential gaps."""

    rate: float  # requests/s

    def __post_init__(self) -> None:
        _above_zero("rate", self.rate)

    @property
    def description(self) -> str:
        """See `Arrival`."""
        return "Poisson"

    def expected(self, seconds: float) -> float:
        """See `Arrival`."""
        return self.rate * seconds

    def when(self, count: Offsets) -> Offsets:
        """See `Arrival`."""
        return count / self.rate

    def scaled(self, factor: float) -> Poisson:
        """See `Arrival`."""
        return replace(self, rate=self.rate * factor)

    def __str__(self) -> str:
        return f"poisson:{self.rate:g}"


@dataclass(frozen=True)
class Constant(Poisson):
    """Exactly 1/rate seconds apart, the first at zero."""

    @property
    def description(self) -> str:
        """See `Arrival`."""
        return "constant"

    def gaps(self, size: int, rng: np.random.Generator) -> Offsets:
        """See `Arrival`."""
        return np.ones(size)

    def when(self, count: Offsets) -> Offsets:
        """See `Arrival`."""
        return (count - 1) / self.rate

    def __str__(self) -> str:
        return f"constant:{self.rate:g}"


@dataclass(frozen=True)
class Gamma(Poisson):
    """Gamma gaps. Burstiness is the shape k, as in vLLM's and AIPerf's options.

    1 is Poisson, *smaller is burstier*, large approaches constant: the
    coefficient of variation of the gaps is 1/sqrt(k).
    """

    burstiness: float

    def __post_init__(self) -> None:
        _above_zero("rate", self.rate)
        _above_zero("burstiness", self.burstiness)

    @property
    def description(self) -> str:
        """See `Arrival`."""
        return (
            f"gamma gaps, burstiness {self.burstiness:g} (shape; below 1 is burstier than Poisson)"
        )

    def gaps(self, size: int, rng: np.random.Generator) -> Offsets:
        """See `Arrival`."""
        return rng.standard_gamma(self.burstiness, size) / self.burstiness

    def __str__(self) -> str:
        return f"gamma:{self.rate:g},{self.burstiness:g}"


@dataclass(frozen=True)
class Ramp(Arrival):
    """Poisson at a rate that goes evenly from `low` to `high`, and stays there."""

    low: float  # requests/s
    high: float
    seconds: float

    def __post_init__(self) -> None:
        _above_zero("end of the ramp", self.high)
        _above_zero("length of the ramp", self.seconds)

    def expected(self, seconds: float) -> float:
        """See `Arrival`."""
        on = min(seconds, self.seconds)
        slope = (self.high - self.low) / self.seconds
        return self.low * on + slope * on**2 / 2 + self.high * (seconds - on)

    def when(self, count: Offsets) -> Offsets:
        """See `Arrival`."""
        slope = (self.high - self.low) / self.seconds
        whole = self.expected(self.seconds)
        on = np.minimum(count, whole)
        # The root that stays exact where the slope is small: 2c / (b + sqrt(b² + 2ac)).
        root = np.sqrt(np.maximum(self.low**2 + 2 * slope * on, 0.0))
        return 2 * on / (self.low + root) + (count - on) / self.high

    def scaled(self, factor: float) -> Ramp:
        """See `Arrival`."""
        return Ramp(self.low * factor, self.high * factor, self.seconds)

    def __str__(self) -> str:
        return f"ramp:{self.low:g}-{self.high:g},{self.seconds:g}"


@dataclass(frozen=True)
class Spike(Arrival):
    """Poisson at `base`, but at `peak` from second `start` to second `end`."""

    base: float  # requests/s
    peak: float
    start: float
    end: float

    def __post_init__(self) -> None:
        _above_zero("base rate", self.base)
        _above_zero("peak rate", self.peak)
        if self.start >= self.end:
            raise ValueError(f"the spike ends at {self.end:g} s, before it starts")

    def expected(self, seconds: float) -> float:
        """See `Arrival`."""
        high = min(max(seconds - self.start, 0.0), self.end - self.start)
        return self.base * (seconds - high) + self.peak * high

    def when(self, count: Offsets) -> Offsets:
        """See `Arrival`."""
        before = self.expected(self.start)
        inside = np.clip(count - before, 0.0, self.expected(self.end) - before)
        return (count - inside) / self.base + inside / self.peak

    def scaled(self, factor: float) -> Spike:
        """See `Arrival`."""
        return Spike(self.base * factor, self.peak * factor, self.start, self.end)

    def __str__(self) -> str:
        return f"spike:{self.base:g},{self.peak:g},{self.start:g}-{self.end:g}"


@dataclass(frozen=True)
class Diurnal(Arrival):
    """Poisson at mean·(1 - depth·cos(2πt/period)): begins at night, peaks at half a period."""

    mean: float  # requests/s
    depth: float  # 0 is even, 1 has nights without a request
    period: float  # seconds

    def __post_init__(self) -> None:
        _above_zero("mean rate", self.mean)
        _above_zero("period", self.period)
        if not 0 <= self.depth <= 1:
            raise ValueError(f"the depth of a day is between 0 and 1, not {self.depth:g}")

    def expected(self, seconds: float) -> float:
        """See `Arrival`."""
        turn = 2 * pi / self.period
        return self.mean * (seconds - self.depth / turn * sin(turn * seconds))

    def when(self, count: Offsets) -> Offsets:
        """See `Arrival`. By bisection: the wave moves a moment by depth/2π periods at most."""
        turn = 2 * pi / self.period
        low = np.maximum(count / self.mean - self.depth / turn, 0.0)
        high = count / self.mean + self.depth / turn
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            early = self.mean * (middle - self.depth / turn * np.sin(turn * middle)) < count
            low, high = np.where(early, middle, low), np.where(early, high, middle)
        return (low + high) / 2

    def scaled(self, factor: float) -> Diurnal:
        """See `Arrival`."""
        return Diurnal(self.mean * factor, self.depth, self.period)

    def __str__(self) -> str:
        return f"diurnal:{self.mean:g},{self.depth:g},{self.period:g}"


FORMS: dict[str, type[Arrival]] = {
    "constant:RATE": Constant,
    "poisson:RATE": Poisson,
    "gamma:RATE,BURSTINESS": Gamma,
    "ramp:RATE-RATE,SECONDS": Ramp,
    "spike:BASE,PEAK,FROM-TO": Spike,
    "diurnal:MEAN,DEPTH,PERIOD": Diurnal,
}
_NUMBER = r"(\\d+(?:\\.\\d*)?|\\.\\d+)"  # as a replacement, hence doubled


def parse_arrival(text: str) -> Arrival:
    """Read a law of arrivals, one of `FORMS`; rates in requests/s, times in seconds.

    Raises `ValueError` saying what may be written, or which number is out of range.
    """
    for form, kind in FORMS.items():
        if match := re.fullmatch(re.sub("[A-Z]+", _NUMBER, form), text.strip()):
            return kind(*map(float, match.groups()))
    raise ValueError(
        f"cannot read the arrivals {text!r}; write one of {'; '.join(FORMS)} "
        "(rates in requests/s, times in seconds; a burstiness below 1 is burstier than Poisson)"
    )


def _above_zero(what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"the {what} must be above zero, not {value:g}")
