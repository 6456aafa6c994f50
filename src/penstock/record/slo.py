"""Service-level objectives: `ttft.p99<0.5s,tpot<50ms`."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from penstock.record import metrics
from penstock.record.record import Outcome, Record

_TERM = re.compile(
    r"(?P<metric>[a-z0-9]+)(?:\.p(?P<p>\d+(?:\.\d+)?))?\s*<=?\s*(?P<x>\d*\.?\d+)\s*(?P<unit>ms|s)"
)


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """One limit, in seconds, that a request meets or misses.

    `ttft` counts from the schedule, as a user waits. `quantile` is the share
    of requests that should meet the limit when a capacity is judged; goodput
    looks at each request alone.
    """

    metric: Literal["ttft", "tpot", "e2e"]
    limit_s: float
    quantile: float | None = None

    def met_by(self, record: Record) -> bool:
        """Whether a request that finished stays within the limit.

        A one-event answer has no TPOT, so it cannot break a TPOT limit.
        """
        if record.outcome is not Outcome.FINISHED:
            return False
        value = {
            "ttft": metrics.ttft_from_schedule,
            "tpot": metrics.tpot,
            "e2e": metrics.e2e,
        }[self.metric](record)
        return value <= self.limit_s if value is not None else self.metric == "tpot"

    def __str__(self) -> str:
        quantile = "" if self.quantile is None else f".p{self.quantile * 100:g}"
        return f"{self.metric}{quantile}<{self.limit_s:g}s"


def parse_slos(text: str) -> list[Slo]:
    """Read a comma-separated list of limits such as `ttft.p99<0.5s,tpot<50ms`.

    Raises `ValueError` naming the term that cannot be read.
    """
    slos = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = _TERM.fullmatch(term)
        if match is None or match["metric"] not in ("ttft", "tpot", "e2e"):
            raise ValueError(
                f"cannot read the limit {term!r}; write METRIC<VALUE with METRIC one of ttft, "
                "tpot, e2e (a quantile may follow: ttft.p99) and VALUE in s or ms: ttft<0.5s"
            )
        slos.append(
            Slo(
                metric=match["metric"],  # type: ignore[arg-type]
                limit_s=float(match["x"]) / (1000 if match["unit"] == "ms" else 1),
                quantile=None if match["p"] is None else float(match["p"]) / 100,
            )
        )
    return slos
