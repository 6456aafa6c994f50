"""Whether two runs differ: a test for each metric, not only a difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from penstock.record.measures import (
    ACCURACY,
    CORRECT,
    ERRORS,
    GOODPUT,
    MEASURES,
    Measure,
    Sample,
    Untestable,
    estimate,
    swings,
)
from penstock.record.quality import samples_of
from penstock.record.repeats import grouped
from penstock.record.run import Condition, Load, Point, Run
from penstock.record.sentences import load_name
from penstock.record.stats import (
    BATCHES,
    LONG_BATCHES,
    Interval,
    difference,
    holm,
)

ALPHA = 0.05  # chance of finding any difference where there is none
# What runs of one server, on a machine at rest, differ by beyond what their batches show, as
# a share of the value. Found by comparing equal servers, 60 times: without it 6 of those
# comparisons found something, mostly a fifth of a percent.
RUN_TO_RUN = 0.005
# Each further test asks more of all others, so what nearly says the same is left out.
TESTED = (
    "output_throughput",
    GOODPUT,
    CORRECT,
    ACCURACY,
    "ttft_from_schedule.p50",
    "ttft_from_schedule.p99",
    "tpot.p50",
    "tpot.p99",
    "itl.p99",
    "e2e.p50",
    "e2e.p99",
    ERRORS,
)
# Conditions that the run itself showed: they matter where they differ by more than this.
_SEEN = {"prompt_tokens_mean": 0.05, "output_tokens_mean": 0.05}
_NOT_COMPARED = ("send_delay_p99_ms", "limit_basis", "repeats", "cache")
_CACHED = 0.01  # of the prompt tokens
_Place = tuple[Load, int]  # an operating point: its load, and the samples of each task


class Effect(msgspec.Struct, kw_only=True):
    """One metric of one operating point in both runs.

    `change` is (B - A)/A, `ci95` its interval, `p` the test's own, `p_holm`
    adjusted for all tests of the comparison; the finding rests on that one.
    Both are None where neither run varies and they are equal, and where `why`
    says why nothing was tested.
    """

    name: str
    unit: str
    a: float | None = None
    b: float | None = None
    change: float | None = None
    ci95: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    finding: Literal["better", "worse", "none", "not tested"] = "not tested"
    why: str | None = None


class Pair(msgspec.Struct, kw_only=True):
    """One operating point in both runs. `conditions` are those that differ, as [A's, B's]."""

    at: str
    load: Load
    test: str
    effects: list[Effect]
    conditions: dict[str, list[Condition]]
    warnings: list[str] = []


class Comparison(msgspec.Struct, kw_only=True):
    """B against A. `warnings` say why a difference may not mean what it seems to."""

    a: str
    b: str
    pairs: list[Pair]
    warnings: list[str] = []
    alpha: float = ALPHA


def compare(a: Run, b: Run, names: Sequence[str] = TESTED) -> Comparison:
    """Test every metric of `names` at every operating point that both runs have.

    With one operating point each, those two are compared whatever their loads.
    Raises `ValueError` where the runs have no operating point in common.
    """
    of_a, of_b = _points(a), _points(b)
    both = [place for place in of_a if place in of_b]
    if both:
        matched = [(of_a[place], of_b[place]) for place in both]
    elif len(of_a) == len(of_b) == 1:
        matched = list(zip(of_a.values(), of_b.values(), strict=True))
    else:
        raise ValueError(
            f"the runs have no operating point in common: A was measured {_names(of_a)}; "
            f"B {_names(of_b)}"
        )
    pairs = [_pair(a, b, repeats_a, repeats_b, names) for repeats_a, repeats_b in matched]
    _find([effect for pair in pairs for effect in pair.effects])
    made = Comparison(a=_name(a), b=_name(b), pairs=pairs)
    made.warnings = list(_warnings(a, b, made))
    left = [place for place in (*of_a, *of_b) if place not in both]
    if both and left:
        made.warnings.append(f"only one of the runs was measured {_names(left)}")
    return made


def _points(run: Run) -> dict[_Place, list[Point]]:
    """Repeats by load and samples; of several operating points of one place the first."""
    found: dict[_Place, list[Point]] = {}
    for indices in grouped(run.points):
        points = [run.points[i] for i in indices]
        found.setdefault((points[0].load, samples_of(points[0])), points)
    return found


def _pair(
    a: Run, b: Run, of_a: Sequence[Point], of_b: Sequence[Point], names: Sequence[str]
) -> Pair:
    samples_a = [Sample(point, a.slos) for point in of_a]
    samples_b = [Sample(point, b.slos) for point in of_b]
    same_limits = a.slos == b.slos
    idle = set() if a.slos or b.slos else {GOODPUT}
    if not any(sample.tasks for sample in (*samples_a, *samples_b)):
        idle |= {ACCURACY, CORRECT}
    return Pair(
        at=_at(of_a[0].load, samples_of(of_a[0])),
        load=of_a[0].load,
        test=_test(len(of_a), len(of_b)) + ("" if ACCURACY in idle else "; accuracy: over tasks"),
        effects=[
            Effect(name=name, unit=MEASURES[name].unit, why="their limits (--slo) differ")
            if name == GOODPUT and not same_limits
            else _effect(MEASURES[name], samples_a, samples_b)
            for name in names
            if name not in idle
        ],
        conditions=dict(_differing(of_a, of_b)),
        warnings=[
            f"the output of {label} comes and goes over a tenth of its window or more: within one "
            "run that passes for a difference too often, so measure with --repeats"
            for label, samples in (("A", samples_a), ("B", samples_b))
            if len(samples) == 1 and swings(samples[0])
        ],
    )


def _test(repeats_a: int, repeats_b: int) -> str:
    """Which test, and what it takes for granted."""
    if min(repeats_a, repeats_b) > 1:
        return (
            f"Welch's t over {repeats_a} and {repeats_b} repeats, taken to be independent and "
            "about normal"
        )
    return (
        f"Welch's t over {LONG_BATCHES} to {BATCHES} batches within a run, taken to be nearly "
        f"independent; from run to run {RUN_TO_RUN:.1%} is allowed for, and what changes more "
        "than that only --repeats can see"
    )


def _effect(measure: Measure, a: Sequence[Sample], b: Sequence[Sample]) -> Effect:
    effect = Effect(name=measure.name, unit=measure.unit)
    try:
        of_a, of_b = estimate(a, measure.name), estimate(b, measure.name)
    except Untestable as reason:
        effect.why = str(reason)
        return effect
    # No errors in either, say: nothing that could be found, so it costs no other test.
    idle = of_a.se == of_b.se == 0 and of_a.value == of_b.value
    if not idle and min(len(a), len(b)) == 1:
        of_a, of_b = of_a.widened(RUN_TO_RUN), of_b.widened(RUN_TO_RUN)
    found = difference(of_a, of_b)
    effect.a, effect.b = of_a.value, of_b.value
    effect.change, effect.ci95 = found.change, found.ci95
    if idle:
        effect.finding = "none"
    else:
        effect.p = found.p
    return effect


def _find(effects: Sequence[Effect]) -> None:
    """Adjust the p-values for each other and say what was found."""
    tested = [effect for effect in effects if effect.p is not None]
    for effect, p in zip(tested, holm([e.p for e in tested if e.p is not None]), strict=True):
        effect.p_holm = p
        effect.finding = "none"
        if p < ALPHA:
            higher = (effect.b or 0) > (effect.a or 0)
            good = higher == (MEASURES[effect.name].better == "higher")
            effect.finding = "better" if good else "worse"


def _differing(a: Sequence[Point], b: Sequence[Point]) -> Iterator[tuple[str, list[Condition]]]:
    """Conditions that are not the same in both, as the first repeats have them."""
    of_a, of_b = a[0].conditions, b[0].conditions
    for name in dict.fromkeys((*of_a, *of_b)):
        x, y = of_a.get(name), of_b.get(name)
        if x == y or name in _NOT_COMPARED:
            continue
        both = isinstance(x, int | float) and isinstance(y, int | float)
        if name in _SEEN and both and abs(x - y) <= _SEEN[name] * max(abs(x), abs(y)):  # type: ignore[operator,arg-type]
            continue
        yield name, [x, y]
    cached_a, cached_b = _cached(a), _cached(b)
    if abs(cached_a - cached_b) > _CACHED:
        yield "cached_share", [round(cached_a, 4), round(cached_b, 4)]


def _cached(points: Sequence[Point]) -> float:
    told = [r for p in points for r in p.records if r.cached_tokens is not None]
    return sum(r.cached_tokens or 0 for r in told) / max(sum(r.prompt_tokens or 0 for r in told), 1)


def _warnings(a: Run, b: Run, made: Comparison) -> Iterator[str]:
    for label, run in (("A", a), ("B", b)):
        reasons = run.summary.get("verdict", {}).get("reasons", [])
        if reasons:
            codes = ", ".join(dict.fromkeys(reason["code"] for reason in reasons))
            yield f"{label} is INVALID ({codes}): its figures should not be claimed"
    for pair in made.pairs:
        yield from (f"{pair.at}: {warning}" for warning in pair.warnings)
    names = dict.fromkeys(name for pair in made.pairs for name in pair.conditions)
    if names:
        yield f"conditions differ: {', '.join(name.replace('_', ' ') for name in names)}"


def _name(run: Run) -> str:
    return str(run.summary.get("run_dir") or run.started)


def _names(places: Iterable[_Place]) -> str:
    return ", ".join(_at(*place) for place in places)


def _at(load: Load, samples: int) -> str:
    name = load_name(msgspec.to_builtins(load))
    return name if samples == 1 else f"{name}, n = {samples}"
