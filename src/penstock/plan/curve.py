"""The load over a day: from a wave, from a trace of requests, or from a table of rates."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.plan.demand import HOUR_S
from penstock.workload.arrivals import Diurnal
from penstock.workload.lengths import Lengths
from penstock.workload.traces import read_trace

DAY_S = 24 * HOUR_S
WINDOW_S = 60.0  # of a trace of requests: below it chance, not load, would be counted
_COLUMNS = ("workload", "t_s", "total_rate_rps")  # ServeGen's rates


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Requests/s in windows of `step_s` seconds that follow each other.

    `prompt` and `output` are the lengths where the source tells them.
    """

    name: str
    step_s: float
    rates: npt.NDArray[np.float64]
    prompt: Lengths | None = None
    output: Lengths | None = None

    @property
    def peak(self) -> float:
        """The busiest window's rate, in requests/s."""
        return float(self.rates.max())

    @property
    def mean(self) -> float:
        """Requests/s over all windows."""
        return float(self.rates.mean())

    @property
    def hours(self) -> float:
        """How long it lasts."""
        return len(self.rates) * self.step_s / HOUR_S


def day_of(rate: float, depth: float, step_s: float = 600.0) -> Curve:
    """A day from night to noon and back, by mean · (1 - depth·cos) as `Diurnal` has it.

    `rate` is that of the busy hour, mean · (1 + depth), in requests/s. Raises
    `ValueError` for a depth that is not between 0 and 1.
    """
    wave = Diurnal(rate / (1 + depth), depth, DAY_S)
    edges = [wave.expected(t) for t in np.arange(0, DAY_S + step_s / 2, step_s)]
    return Curve(name=f"a day of depth {depth:g}", step_s=step_s, rates=np.diff(edges) / step_s)


def read_curve(text: str) -> Curve:
    """A curve from `FILE`, or of one workload of a table of rates from `FILE#WORKLOAD`.

    A table of rates has ServeGen's columns `_COLUMNS`, of equal steps. Anything else is read
    as a trace of requests (`workload.traces`), counted in windows of `WINDOW_S`;
    its lengths are then drawn log-normally with its mean and deviation. Raises
    `ValueError` naming file and remedy.
    """
    path, _, workload = text.partition("#")
    if not Path(path).exists():
        raise ValueError(
            f"{path} does not exist; give a trace, or a table with {', '.join(_COLUMNS)}"
        )
    if path.endswith(".csv") and (rows := _rows(Path(path))) is not None:
        return _of_table(path, workload, rows)
    trace = read_trace(Path(path))
    if trace.sessions is not None:
        raise ValueError(
            f"{path}: its requests wait for answers, so it has no load over time; "
            "give a trace whose requests come by the clock"
        )
    windows = max(1, int(np.floor(trace.at_s[-1] / WINDOW_S)))  # the last, cut one is left out
    counts = np.bincount((trace.at_s // WINDOW_S).astype(np.int64), minlength=windows)[:windows]
    return Curve(
        name=f"{Path(path).name} ({trace.format})",
        step_s=WINDOW_S,
        rates=counts / WINDOW_S,
        prompt=_lengths(trace.prompt_tokens),
        output=_lengths(trace.output_tokens),
    )


def _lengths(tokens: npt.NDArray[np.int64]) -> Lengths:
    return Lengths(kind="lognormal", a=float(tokens.mean()), b=float(tokens.std()))


def _rows(path: Path) -> list[dict[str, str]] | None:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            return None
        return list(reader)


def _of_table(path: str, workload: str, rows: list[dict[str, str]]) -> Curve:
    known = sorted({row["workload"] for row in rows})
    if not workload and len(known) == 1:
        workload = known[0]
    if workload not in known:
        which = f"no workload {workload!r}" if workload else "several workloads"
        raise ValueError(
            f"{path} has {which}; choose one: {path}#{known[0]} (of {', '.join(known)})"
        )
    try:
        points = sorted(
            (float(row["t_s"]), float(row["total_rate_rps"]))
            for row in rows
            if row["workload"] == workload
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    at, rates = np.array(points).T
    steps = np.diff(at)
    if len(at) < 2 or not np.allclose(steps, steps[0]) or rates.min() < 0 or rates.max() <= 0:
        raise ValueError(
            f"{path}, {workload}: a table of rates needs two rows or more at equal steps, "
            "no rate below zero and one above it"
        )
    return Curve(name=f"{Path(path).name}#{workload}", step_s=float(steps[0]), rates=rates)
