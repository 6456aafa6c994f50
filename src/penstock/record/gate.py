"""Limits on what a change may cost, for CI: `output_throughput<-5%,ttft.p99>+10%`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from penstock.record.compare import ALPHA, Comparison, Effect, Pair
from penstock.record.measures import MEASURES, named
from penstock.record.stats import holm

_TERM = re.compile(r"(?P<name>[a-z0-9_.]+)\s*(?P<side>[<>])\s*(?P<percent>[+-]?\d+(\.\d+)?)\s*%")


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Fail when the change of a metric lies beyond a limit: below it for "<", above for ">"."""

    name: str
    side: str
    limit: float  # relative: -0.05

    def beyond(self, change: float) -> bool:
        """Whether a relative change is on the failing side."""
        return change < self.limit if self.side == "<" else change > self.limit

    def __str__(self) -> str:
        return f"{self.name}{self.side}{self.limit * 100:+g}%"


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one gate at one operating point."""

    gate: str
    at: str
    failed: bool
    says: str


def parse_gates(text: str) -> list[Gate]:
    """Read comma-separated terms METRIC<PERCENT% or METRIC>PERCENT%, of B against A.

    Raises `ValueError` naming the term and what is wrong with it.
    """
    gates = []
    for term in (part.strip() for part in text.split(",")):
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(
                f"cannot read {term!r}; write METRIC<PERCENT% or METRIC>PERCENT%, the change of B "
                "against A at which to fail: output_throughput<-5%,ttft.p99>+10%"
            )
        name, limit = named(match["name"]).name, float(match["percent"]) / 100
        # On the other side of zero it would fail runs that did not change.
        if (match["side"] == "<") != (limit < 0) and limit != 0:
            raise ValueError(
                f"{term!r} would fail runs that do not differ; did you mean "
                f"{match['name']}{match['side']}{-limit * 100:+g}%?"
            )
        gates.append(Gate(name=name, side=match["side"], limit=limit))
    return gates


def rule(gates: Sequence[Gate], made: Comparison) -> list[Ruling]:
    """Judge every gate at every operating point of a comparison.

    A gate fails where the change lies beyond its limit and the test finds that
    it is not noise, with p-values adjusted among the gates alone, since these
    were named beforehand; and where it cannot be judged at all, because a
    check that did not happen is not passed.
    """
    judged = [(gate, pair.at, _tested(pair, gate.name)) for pair in made.pairs for gate in gates]
    tested = [effect.p for _, _, effect in judged if effect.p is not None]
    adjusted = iter(holm(tested))
    return [
        _ruling(gate, at, effect, next(adjusted) if effect.p is not None else None)
        for gate, at, effect in judged
    ]


def _tested(pair: Pair, name: str) -> Effect:
    nothing = Effect(
        name=name, unit=MEASURES[name].unit, why="neither run has limits (--slo) or tasks for it"
    )
    return next((effect for effect in pair.effects if effect.name == name), nothing)


def _ruling(gate: Gate, at: str, effect: Effect, p: float | None) -> Ruling:
    if effect.change is None or (p is None and effect.finding == "not tested"):
        why = effect.why or "it is zero in A, so there is no relative change"
        failed, says = True, f"cannot be judged: {why}"
    elif not gate.beyond(effect.change):
        failed, says = False, f"passes: {effect.change * 100:+.1f} %"
    elif p is None or p >= ALPHA:
        failed, says = False, f"passes: {effect.change * 100:+.1f} %, but that is within the noise"
    else:
        failed, says = True, f"fails: {effect.change * 100:+.1f} %"
    return Ruling(gate=str(gate), at=at, failed=failed, says=says)
