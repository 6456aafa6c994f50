"""How long prompts and answers are: `128`, `64-256`, `normal:256,64`, `lognormal:256,200`."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

_SPEC = re.compile(
    r"(?P<fixed>\d+)"
    r"|(?P<low>\d+)-(?P<high>\d+)"
    r"|(?P<kind>normal|lognormal):(?P<mean>\d+(?:\.\d+)?),(?P<sd>\d+(?:\.\d+)?)"
)


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of token counts, never below one.

    `a` and `b` are low and high (both inclusive) of a fixed or uniform
    length, mean and standard deviation of the lengths themselves otherwise.
    """

    kind: Literal["uniform", "normal", "lognormal"]
    a: float
    b: float

    @property
    def mean(self) -> float:
        """Expected length, before rounding and clipping at one."""
        return (self.a + self.b) / 2 if self.kind == "uniform" else self.a

    def times(self, factor: float) -> Lengths:
        """Lengths so many times as long, still never below one."""
        a, b = (max(1.0, factor * value) for value in (self.a, self.b))
        if self.kind == "uniform":
            a, b = float(round(a)), float(round(b))
        return msgspec.structs.replace(self, a=a, b=b)

    def draw(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """`n` lengths."""
        if self.kind == "uniform":
            return rng.integers(int(self.a), int(self.b), size=n, endpoint=True)
        if self.kind == "normal":
            drawn = rng.normal(self.a, self.b, size=n)
        else:
            variance = np.log1p((self.b / self.a) ** 2)
            drawn = rng.lognormal(np.log(self.a) - variance / 2, np.sqrt(variance), size=n)
        return np.maximum(np.rint(drawn), 1).astype(np.int64)

    def __str__(self) -> str:
        if self.kind != "uniform":
            return f"{self.kind}:{self.a:g},{self.b:g}"
        return f"{self.a:g}" if self.a == self.b else f"{self.a:g}-{self.b:g}"


def parse_lengths(text: str) -> Lengths:
    """Read a length specification; raises `ValueError` saying what may be written."""
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"cannot read the length {text!r}; write a number (128), a range (64-256), "
            "normal:MEAN,SD or lognormal:MEAN,SD"
        )
    if match["kind"]:
        kind: Literal["normal", "lognormal"] = match["kind"]  # type: ignore[assignment]
        lengths = Lengths(kind=kind, a=float(match["mean"]), b=float(match["sd"]))
    else:
        low, high = (match["fixed"],) * 2 if match["fixed"] else (match["low"], match["high"])
        lengths = Lengths(kind="uniform", a=int(low), b=int(high))
        if lengths.a > lengths.b:
            raise ValueError(f"the length range {text!r} runs backwards; write {high}-{low}")
    if lengths.a < 1:
        raise ValueError(f"the length {text!r} allows less than one token; start at 1")
    return lengths
