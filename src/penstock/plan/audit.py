"""Whether a figure can be: its readings, each held against the hardware and what was measured.

*impossible*: under every reading memory or arithmetic cannot hold it.
*implausible*: no reading stays below the ordinary ceiling and what was measured.
*plausible*: all customary readings do. *underspecified*: it depends on what is missing.
How each is reached stands in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.plan import blanks, gain
from penstock.plan.claim import Claim, rate
from penstock.plan.evidence import Near, around
from penstock.plan.judge import RANK, Judged, Verdict, judge, required, said
from penstock.predict.sheet import Device
from penstock.record.sentences import number


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a claim and what it rests on.

    `required` is what the reading `shown` would take, beside what there is, or
    what is known of that where no reading can be made; `ratios` the most that
    a ratio's technique gives, on each reading. `missing` is told in the order
    of `questions`, those on which the verdict depends first.
    """

    claim: Claim
    verdict: Verdict
    why: list[str]
    missing: list[str]
    questions: list[str]
    required: dict[str, Any]
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
        required={"factor": claim.figure, "usual": usual, "most": any_},
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
    sheet, needed = claim.sheet(*sheets), {}
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


def _largest(claim: Claim, sheet: Device) -> dict[str, Any]:
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
    best = max(RANK[one.verdict] for one in judged)
    if best < RANK["plausible"]:
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
    """Whether the verdict depends on what is assumed of a condition, each taken at its best."""
    best: dict[str, int] = {}
    for one in judged:
        if (value := one.reading.assumed.get(name)) is not None:
            best[value] = max(best.get(value, 0), RANK[one.verdict])
    return len(set(best.values())) > 1


def _why(
    verdict: Verdict, judged: Sequence[Judged], best: Judged, decisive: Sequence[str]
) -> list[str]:
    told = [f"Read as {said(best.reading)}: {best.why}."]
    if verdict != "underspecified":
        return told
    if "hardware" in decisive:
        told = [_where(judged)]
    failing = [one for one in judged if one.reading.customary and one.verdict != "plausible"]
    worst = min(failing, key=lambda one: one.ease)
    told.append(f"Read as {said(worst.reading)}: {worst.verdict}, {worst.why}.")
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


def _technique(claim: Claim) -> str:
    new = claim.precision or "4-bit"
    names = {"weights": f"{new} weights", "hardware": "this hardware"}
    return names.get(claim.technique or "", claim.technique or "this")


def facts(made: Audit) -> dict[str, Any]:
    """An audit as plain values, for JSON: what is unknown is left out of the claim."""
    return {
        "verdict": made.verdict,
        "why": made.why,
        "missing": made.missing,
        "questions": made.questions,
        "required": made.required,
        "nearest": [
            {
                **msgspec.to_builtins(near.point),
                "tokens_per_s": near.rate,
                "share_of_ceiling": near.share,
                "distance": near.distance,
            }
            for near in made.nearest
        ],
        "claim": _told(made.claim),
        "readings": list(map(_reading, made.judged)),
        "ratios": msgspec.to_builtins(made.ratios),
    }


def _told(of: Claim) -> dict[str, Any]:
    fields = {k: v for k, v in msgspec.to_builtins(of).items() if v not in (None, False, "")}
    if of.baseline is not None:
        told = fields["baseline"].items()
        fields["baseline"] = {k: v for k, v in told if v not in (None, False, "")}
    return fields


def _reading(one: Judged) -> dict[str, Any]:
    r = one.reading
    return {
        "whose": r.whose,
        "phase": r.phase,
        "precision": r.precision,
        "hardware": r.device.name,
        "devices": r.devices,
        "gained": r.gained,
        "assumed": sorted(r.assumed),
        "customary": r.customary,
        "verdict": one.verdict,
        "why": one.why,
        "tokens_per_s": r.rate,
        "ceiling": _finite(one.ordinary.rate),
        "implausible_above": _finite(one.limit),
        "impossible_above": _finite(one.sure.rate),
        "binds": one.ordinary.binds,
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
