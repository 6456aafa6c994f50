"""Whether a figure can be: its readings, each held against the hardware and what was measured.

*impossible*: under every reading memory or arithmetic cannot hold it.
*implausible*: no reading stays below the ordinary ceiling and what was measured.
*plausible*: all customary readings do. *underspecified*: it depends on what is missing.
How each is reached stands in docs/audit.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock.plan import blanks, gain
from penstock.plan.claim import Claim, rate
from penstock.plan.evidence import MARGIN, Evidence, Near, around, evidence
from penstock.plan.reading import (
    MOST_GAINED,
    Ceiling,
    Reading,
    ordinary,
    step_bytes,
    sure,
    surplus,
    token_flops,
)
from penstock.record.sentences import number

Verdict = Literal["impossible", "implausible", "plausible", "underspecified"]
_RANK = {"impossible": 0, "implausible": 1, "plausible": 2}


class Judged(msgspec.Struct, frozen=True):
    """One reading with its verdict, its ceilings and what was measured near it."""

    reading: Reading
    verdict: Verdict
    why: str
    ordinary: Ceiling
    sure: Ceiling
    evidence: Evidence

    @property
    def share(self) -> float:
        """Of the ordinary ceiling that the reading needs."""
        return self.reading.rate / self.ordinary.rate

    @property
    def limit(self) -> float:
        """Rate above which the reading is implausible: beyond what was measured, with a margin.

        The ordinary ceiling where nothing alike was measured. Measured points
        may lie above it: of experts fewer can be touched than expected, and
        speculation is not always told.
        """
        best = self.evidence.best
        return self.ordinary.rate if best is None else MARGIN * best

    @property
    def ease(self) -> tuple[int, float]:
        """The larger, the more easily the reading holds."""
        return _RANK[self.verdict], self.limit / self.reading.rate


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a claim and what it rests on.

    `required` is what the reading that asks least would take, beside what
    there is; `ratios` the most that a ratio's technique gives. `skipped` says
    why nothing could be reckoned, where that is so.
    """

    claim: Claim
    verdict: Verdict
    why: list[str]
    missing: list[str]
    questions: list[str]
    required: dict[str, Any] | None
    judged: list[Judged]
    ratios: list[gain.Most]
    nearest: tuple[Near, ...]

    @property
    def shown(self) -> Judged | None:
        """The reading that decides: see `_telling`."""
        return _telling(self.judged) if self.judged else None


def audit(claim: Claim, *sheets: Path) -> Audit:
    """Judge a claim; `sheets` are TOML files of hardware of one's own.

    A ratio to a baseline whose figure is told is judged as the product of both.
    Raises `ValueError` where the claim names what is unknown.
    """
    baseline = claim.baseline
    if claim.unit == "x" and (baseline is None or baseline.figure is None):
        return _ratio(claim, *sheets)
    gaps = blanks.missing(claim)
    if claim.unit == "x" and baseline is not None and baseline.figure is not None:
        product = claim.figure * baseline.figure
        claim = msgspec.structs.replace(claim, figure=product, unit="tokens/s", whose=None)
        gaps = blanks.missing(claim)
    judged = [judge(reading) for reading in blanks.readings(claim, *sheets)]
    if not judged:
        return _unreckoned(claim, gaps, *sheets)
    verdict = _overall(judged)
    best = _telling(judged)
    decisive = [name for name in gaps if _decides(name, judged)]
    ordered = [*decisive, *(name for name in gaps if name not in decisive)]
    return Audit(
        claim=claim,
        verdict=verdict,
        why=_why(verdict, judged, best, decisive),
        missing=ordered,
        questions=[blanks.QUESTIONS[name] for name in ordered],
        required=required(best.reading),
        judged=judged,
        ratios=[],
        nearest=best.evidence.nearest,
    )


def judge(r: Reading, *, skip: str = "") -> Judged:
    """One reading against its ceilings and the measured points (but for those of model `skip`)."""
    found = Judged(r, "plausible", "", ordinary(r), sure(r), evidence(r, skip=skip))
    plain, most, seen = found.ordinary, found.sure, found.evidence
    verdict: Verdict = "plausible"
    if r.rate > most.rate:
        verdict = "impossible"
        why = _memory(r) if surplus(r) else _beyond(r, most, generous=True)
    elif surplus(r):
        verdict, why = "implausible", f"{_memory(r)}; the rest would be read from a host's memory"
    elif r.rate > found.limit:
        verdict = "implausible"
        why = _beyond(r, plain, generous=False) if r.rate > plain.rate else _unseen(r, seen)
    elif math.isinf(plain.rate):
        why = "nothing that is known of hardware and model limits it"
    else:
        why = f"it needs {_percent(found.share)} of what {plain.binds} allows"
    return msgspec.structs.replace(found, verdict=verdict, why=why)


def required(r: Reading) -> dict[str, Any]:
    """What the reading's rate takes, and what its hardware has: bytes, operations, capacity."""
    sequences = r.sequences(r.kv)
    weights, cache = step_bytes(r, r.gained, r.kv)
    tokens = (r.prompt or 1) if r.phase == "prefill" else r.gained
    of_system = r.rate * {"user": sequences, "device": r.devices}.get(r.whose, 1)
    steps = of_system / (sequences * tokens) if math.isfinite(sequences) else 0.0
    flops = r.device.matmul_flops(r.precision)
    kept = r.model.kv_bytes(r.context, r.kv)
    return {
        "system_tokens_per_s": of_system if math.isfinite(of_system) else None,
        "sequences": sequences if math.isfinite(sequences) else None,
        "bytes_per_s": steps * (weights + cache),
        "flops_per_s": of_system * token_flops(r) if math.isfinite(of_system) else None,
        "weight_bytes": r.model.weight_bytes(r.precision),
        "kv_bytes": sequences * kept if math.isfinite(sequences) else 0.0,
        "tokens_per_step": r.gained * max(1.0, r.rate / ordinary(r).rate),
        "available": {
            "bytes_per_s": r.devices * r.device.read_bytes_per_s,
            "flops_per_s": r.devices * flops if flops else None,
            "memory_bytes": r.devices * r.device.memory_bytes,
        },
    }


def _ratio(claim: Claim, *sheets: Path) -> Audit:
    gaps = blanks.missing(claim)
    found = gain.most(claim, *sheets)
    usual = max((one.factor for one in found if one.usual), default=None)
    any_ = max((one.factor for one in found), default=None)
    verdict: Verdict = "underspecified"
    if usual is None or any_ is None:
        why = [
            f"{claim.figure:g} times as much as what? Without the baseline's figure and conditions "
            "no arithmetic can check a ratio."
        ]
    elif claim.figure > any_:
        verdict = "implausible"
        why = [
            f"With everything else equal {_technique(claim)} gives at most {number(any_)} times as "
            f"much, on any reading: {claim.figure:g} needs a baseline that is starved (of memory "
            "for K and V, of batching) or that differs in more than this."
        ]
    elif claim.figure <= usual:
        verdict = "plausible"
        why = [
            f"With everything else equal {_technique(claim)} can give {number(usual)} times as "
            "much; whether it did depends on the baseline."
        ]
    else:
        why = [
            f"What is usually meant by {_technique(claim)} gives at most {number(usual)} times as "
            f"much, the most generous reading {number(any_)}: the baseline decides."
        ]
    return Audit(
        claim=claim,
        verdict=verdict,
        why=why,
        missing=gaps,
        questions=[blanks.QUESTIONS[name] for name in gaps],
        required=None,
        judged=[],
        ratios=found,
        nearest=(),
    )


def _unreckoned(claim: Claim, gaps: list[str], *sheets: Path) -> Audit:
    """Nothing is known of the model or of the hardware: only what the figure would take of them."""
    why = []
    if claim.other_model:
        why.append(f"Nobody has published the size of {claim.other_model!r}.")
    if claim.other_hardware:
        why.append(
            f"There is no sheet of {claim.other_hardware!r}; give one with --sheets FILE.toml."
        )
    sheet, needed = claim.sheet(*sheets), None
    if claim.shape() is None:
        why.append("Without the model's size no arithmetic can check the figure.")
    if sheet is not None:
        needed = _largest(claim, sheet)
        why.append(
            f"Its step may read {number(needed['bytes_per_step'] / 1e9)} GB at most, so that one "
            "user alone could have this speed: that many gigabytes of active weights, no more."
        )
    return Audit(
        claim=claim,
        verdict="underspecified",
        why=why,
        missing=gaps,
        questions=[blanks.QUESTIONS[name] for name in gaps],
        required=needed,
        judged=[],
        ratios=[],
        nearest=around(claim),
    )


def _largest(claim: Claim, sheet: Any) -> dict[str, Any]:
    """What hardware allows of a model nobody named, if the figure is one user's or a batch's."""
    count = claim.devices or 1
    running = claim.batch or claim.concurrency or 1
    steps = rate(claim) / (1 if claim.whose == "user" else running)
    return {
        "bytes_per_step": count * sheet.read_bytes_per_s / steps,
        "available": {
            "bytes_per_s": count * sheet.read_bytes_per_s,
            "memory_bytes": count * sheet.memory_bytes,
        },
    }


def _overall(judged: Sequence[Judged]) -> Verdict:
    best = max(_RANK[one.verdict] for one in judged)
    if best < _RANK["plausible"]:
        return "impossible" if best == 0 else "implausible"
    if all(one.verdict == "plausible" for one in judged if one.reading.customary):
        return "plausible"
    return "underspecified"


def _telling(judged: Sequence[Judged]) -> Judged:
    """The reading that tells most.

    Where all customary ones are plausible it is the hardest of them, else the
    one that holds most easily.
    """
    usual = [one for one in judged if one.reading.customary]
    held = [one for one in usual if one.verdict == "plausible"]
    if held and len(held) == len(usual):
        return min(held, key=lambda one: one.ease)
    return max(held or judged, key=lambda one: one.ease)


def _decides(name: str, judged: Sequence[Judged]) -> bool:
    """Whether the verdict depends on what is assumed of a condition, the best case of each apart."""
    best: dict[str, int] = {}
    for one in judged:
        if (value := one.reading.assumed.get(name)) is not None:
            best[value] = max(best.get(value, 0), _RANK[one.verdict])
    return len(set(best.values())) > 1


def _why(
    verdict: Verdict, judged: Sequence[Judged], best: Judged, decisive: Sequence[str]
) -> list[str]:
    told = [f"Read as {_said(best.reading)}: {best.why}."]
    if verdict != "underspecified":
        return told
    if "hardware" in decisive:
        told = [_where(judged)]
    failing = [one for one in judged if one.reading.customary and one.verdict != "plausible"]
    worst = min(failing, key=lambda one: one.ease)
    told.append(f"Read as {_said(worst.reading)}: {worst.verdict}, {worst.why}.")
    if decisive:
        told.append(f"So it depends on {', '.join(decisive)}.")
    return told


def _where(judged: Sequence[Judged]) -> str:
    """On which hardware a figure can be had."""
    holds = {one.reading.device.name for one in judged if one.verdict == "plausible"}
    every = {one.reading.device.name: None for one in judged}
    out = [name for name in every if name not in holds]
    return (
        f"It can be had on {', '.join(name for name in every if name in holds)}, on one or as many "
        f"as their link joins; not on {', '.join(out) or 'anything else'}."
    )


def _said(r: Reading) -> str:
    """A reading in words."""
    of = {
        "user": "one user's speed",
        "system": "the speed of all users",
        "device": "each device's speed",
    }
    what = {"prefill": "prompt tokens", "total": "prompt and output tokens"}.get(r.phase, "")
    gained = f", gaining {r.gained:g} tokens a step" if r.gained != 1 else ""
    return (
        f"{of[r.whose]}{f' in {what}' if what else ''}, {r.precision} weights, "
        f"{r.devices} × {r.device.title}{gained}"
    )


def _memory(r: Reading) -> str:
    weights = r.model.weight_bytes(r.precision)
    held = r.devices * r.device.memory_bytes
    rest = f" and {number((held + surplus(r) - weights) / 1e9)} GB of K and V"
    return (
        f"{r.model.name} has {number(weights / 1e9)} GB of weights in {r.precision}"
        f"{rest if weights <= held else ''}, but {r.devices} × {r.device.title} "
        f"{'hold' if r.devices > 1 else 'holds'} {number(held / 1e9)} GB"
    )


def _beyond(r: Reading, ceiling: Ceiling, *, generous: bool) -> str:
    times = r.rate / ceiling.rate
    gained = r.gained if r.told or not generous else MOST_GAINED
    allowed = f"even with {gained:g} tokens gained a step" if gained > 1 else "without speculation"
    if ceiling.binds == "compute":
        allowed = "even at twice the dense rate" if generous else "at its dense rate"
    need = required(r)
    if ceiling.binds == "compute":
        what = f"{(need['flops_per_s'] or 0) / 1e12:,.0f} Tflop/s"
        have = f"{(need['available']['flops_per_s'] or 0) / 1e12:,.0f} Tflop/s"
    else:
        what = f"{need['bytes_per_s'] * r.gained / 1e12:,.3g} TB/s"
        have = f"{need['available']['bytes_per_s'] / 1e12:,.3g} TB/s"
    return (
        f"it takes {what} where there are {have}: {number(times)} times what {ceiling.binds} "
        f"allows {allowed}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"


def _unseen(r: Reading, seen: Evidence) -> str:
    """How far beyond the best measured point like it a reading is."""
    assert seen.best is not None
    assert seen.like is not None
    p = seen.like.point
    return (
        f"it is {number(r.rate / seen.best)} times what could be expected from the best point "
        f"measured under conditions like these ({p.model} in {p.precision} on {p.devices} × "
        f"{p.device}, {_percent(seen.like.share)} of its own ceiling)"
    )


def _technique(claim: Claim) -> str:
    new = claim.precision or "4-bit"
    names = {"weights": f"{new} weights", "hardware": "this hardware"}
    return names.get(claim.technique or "", claim.technique or "this")


__all__ = ["MARGIN", "Audit", "Judged", "Verdict", "audit", "judge", "required"]
