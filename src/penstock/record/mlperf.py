"""`--rules mlperf`: what MLPerf Inference asks of a run of a language model, as far as a run shows.

Sources: MLCommons' inference_rules.adoc and loadgen/mlperf.conf (2026). Judged
over all requests of an operating point, warm-up included, as LoadGen does. Not
judged, because a run cannot show it: the data set, accuracy, the seeds,
replication and audits. So VALID here is no MLPerf result.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import msgspec
from scipy import stats as st

from penstock.record import metrics
from penstock.record.run import Point
from penstock.record.verdict import Reason

MIN_DURATION_S = 600.0
QUANTILE, CONFIDENCE = 0.99, 0.99  # of the latency limits, and of the early-stopping test


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one benchmark: (TTFT, TPOT) in seconds, and how much must be answered."""

    names: tuple[str, ...]  # any of these, within the model's own name, is this benchmark
    server: tuple[float, float]
    interactive: tuple[float, float] | None = None
    offline: int | None = None  # samples
    tokens: tuple[float, float | None] | None = None  # mean of an answer: least, most


MODELS = {
    "llama2-70b": Model(
        names=("llama-2-70b", "llama2-70b"),
        server=(2.0, 0.200),
        interactive=(0.450, 0.040),
        offline=24_576,
        tokens=(0.9 * 294.45, None),
    ),
    "llama3.1-8b": Model(
        names=("llama-3.1-8b", "llama3.1-8b", "llama3_1-8b"),
        server=(2.0, 0.100),
        interactive=(0.500, 0.030),
        offline=13_368,  # its length rule counts characters, so tokens cannot be judged
    ),
    "llama3.1-405b": Model(
        names=("llama-3.1-405b", "llama3.1-405b", "llama3_1-405b"),
        server=(6.0, 0.175),
        interactive=(4.5, 0.080),
        offline=8_313,
        tokens=(0.9 * 684.68, 1.1 * 684.68),
    ),
    "mixtral-8x7b": Model(
        names=("mixtral-8x7b",),
        server=(2.0, 0.200),
        offline=15_000,
        tokens=(0.9 * 144.84, 1.1 * 144.84),
    ),
    "deepseek-r1": Model(
        names=("deepseek-r1",), server=(2.0, 0.080), interactive=(1.5, 0.015), offline=4_388
    ),
    # The rules say 20 ms between tokens for interactive, mlperf.conf 15 ms: the stricter holds.
    "gpt-oss-120b": Model(names=("gpt-oss-120b",), server=(3.0, 0.080), interactive=(2.0, 0.015)),
}
SCENARIOS = ("server", "interactive", "offline")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's rules; `scenario` None: as the load says."""

    name: str
    model: Model
    scenario: str | None = None


def parse_rules(text: str, served: str) -> Rules:
    """Read `mlperf`, `mlperf:MODEL` or `mlperf:MODEL/SCENARIO`; `served` is the target's model.

    Raises `ValueError` naming what is unknown and what there is.
    """
    kind, _, rest = text.partition(":")
    name, _, scenario = rest.partition("/")
    if kind != "mlperf":
        raise ValueError(f"unknown rules {text!r}; there are: mlperf, mlperf:MODEL/SCENARIO")
    if scenario and scenario not in SCENARIOS:
        raise ValueError(f"unknown scenario {scenario!r}; MLPerf has: {', '.join(SCENARIOS)}")
    wanted = (name or served).lower()
    for known, model in MODELS.items():
        if known == wanted or any(alias in wanted for alias in model.names):
            if scenario == "interactive" and model.interactive is None:
                raise ValueError(f"MLPerf has no interactive limits for {known}; leave it out")
            if scenario == "offline" and model.offline is None:
                raise ValueError(f"MLPerf has no offline count for {known}; leave it out")
            return Rules(name=known, model=model, scenario=scenario or None)
    raise ValueError(
        f"MLPerf has no rules for the model {name or served!r}; it has: {', '.join(MODELS)}. "
        "Name one of them, as in --rules mlperf:llama2-70b/server, to be held to its limits"
    )


@cache
def queries_for(over: int, quantile: float = QUANTILE, confidence: float = CONFIDENCE) -> int:
    """Queries wanted when `over` of them exceed a limit that `quantile` of them must meet.

    LoadGen's early stopping: the smallest n with P(Binomial(n, 1 - quantile) <= over)
    <= 1 - confidence. That is 459 for none and 662 for one, at p99.
    """
    low, high = over + 1, 2 * (over + 1)
    while _chance(over, high, quantile) > 1 - confidence:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _chance(over, middle, quantile) > 1 - confidence:
            low = middle + 1
        else:
            high = middle
    return low


def _chance(over: int, n: int, quantile: float) -> float:
    return float(st.binom.cdf(over, n, 1 - quantile))


def judge(point: Point, rules: Rules) -> list[Reason]:
    """All rules that this operating point breaks."""
    at_once = bool(point.records) and max(r.sched_ns for r in point.records) == point.start_ns
    scenario = rules.scenario or ("offline" if at_once else "server")
    judged = _offline if scenario == "offline" else _server
    return [
        *_duration(point),
        *judged(point, rules, scenario, at_once),
        *_lengths(point, rules.model),
    ]


def _reason(
    code: str, says: str, remedy: str, value: float | None = None, threshold: float | None = None
) -> Reason:
    return Reason(
        code=f"mlperf_{code}",
        says=f"MLPerf: {says}",
        remedy=remedy,
        value=value,
        threshold=threshold,
    )


def _duration(point: Point) -> Iterator[Reason]:
    ends = [r.end_ns for r in point.records if r.end_ns is not None]
    seconds = (max(ends, default=point.start_ns) - point.start_ns) / metrics.NS_PER_S
    if seconds < MIN_DURATION_S:
        yield _reason(
            "duration",
            f"the run took {seconds:.4g} s of at least {MIN_DURATION_S:g} s",
            f"give --duration {MIN_DURATION_S:g} or more",
            seconds,
            MIN_DURATION_S,
        )


def _offline(point: Point, rules: Rules, scenario: str, at_once: bool) -> Iterator[Reason]:
    done, least = len(metrics.finished(point.records)), rules.model.offline
    if not at_once:
        yield _reason(
            "load",
            f"{scenario} wants every request at the start",
            "give as large a --concurrency as --requests",
        )
    if least is None:
        yield _reason("samples", f"there is no offline count for {rules.name}", "run as server")
    elif done < least:
        yield _reason(
            "samples",
            f"{done} samples were answered of at least {least}",
            f"give --requests {least} or more",
            done,
            least,
        )


def _server(point: Point, rules: Rules, scenario: str, _at_once: bool) -> Iterator[Reason]:
    if point.load.kind != "open" or point.conditions.get("arrival") != "Poisson":
        yield _reason("load", f"{scenario} wants Poisson arrivals", "give a --rate")
    limits = rules.model.interactive if scenario == "interactive" else rules.model.server
    assert limits is not None
    done = metrics.finished(point.records)
    n = len(point.records)
    for name, limit, metric in (
        ("TTFT", limits[0], metrics.ttft_from_schedule),
        ("TPOT", limits[1], metrics.tpot),
    ):
        values = [v for r in done if (v := metric(r)) is not None]
        # What did not end well met no limit. An answer of one event has no TPOT to judge.
        over = sum(v > limit for v in values) + n - len(done)
        if over > (1 - QUANTILE) * n or n < (least := queries_for(over)):
            wanted = "" if over > (1 - QUANTILE) * n else f", which needs {least} requests"
            yield _reason(
                name.lower(),
                f"{over} of {n} requests missed {name} {limit * 1000:g} ms; "
                f"{QUANTILE:.0%} must meet it, with {CONFIDENCE:.0%} confidence{wanted}",
                "offer less" if not wanted else "send more requests",
                over / max(n, 1),
                1 - QUANTILE,
            )


def _lengths(point: Point, model: Model) -> Iterator[Reason]:
    counts = [r.output_tokens for r in metrics.finished(point.records)]
    known = [count for count in counts if count is not None]
    if model.tokens is None or not known:
        return
    mean, (least, most) = sum(known) / len(known), model.tokens
    if mean <= least or (most is not None and mean >= most):
        yield _reason(
            "lengths",
            f"answers are {mean:.1f} tokens long on average; they must be above {least:.1f}"
            + (f" and below {most:.1f}" if most is not None else ""),
            "use the benchmark's own prompts and settings",
            mean,
            least if mean <= least else most,
        )
