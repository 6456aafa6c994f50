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

from penstock.plan.audit import blanks, gain
from penstock.plan.audit.claim import Claim, rate
from penstock.plan.audit.evidence import Near, around
from penstock.plan.audit.judge import RANK, Judged, Verdict, judge, required, said
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
        figure, whose = claim.figure * baseline.figure, baseline.whose
        claim = msgspec.structs.replace(claim, figure=figure, unit="tokens/s", whose=whose)
    gaps = blanks.missing(claim)
    judged = [judge(reading) for reading in blanks.readings(claim, *sheets)]
    if not judged:
        return _unreckoned(claim, gaps, *sheets)
    verdict = _overall(judged)
    best = _telling(judged)
    decisive = _decisive(gaps, judged)
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
    any_ = max((one.factor for one in found if not one.measured), default=None)
    verdict: Verdict = "underspecified"
    if usual is None or any_ is None:
        why = [
            f"{claim.figure:g} times as much as what? Without the baseline's figure and conditions "
            "no arithmetic can check a ratio."
        ]
    elif claim.figure > any_:
        verdict = "implausible"
        why = [
            f"With everything else equal the most that {_technique(claim)} can give is "
            f"{number(any_)} times as much, on any reading: {claim.figure:g} needs a baseline that "
            "is starved (of memory for K and V, of batching) or differs in more than this."
        ]
    elif claim.figure <= usual:
        verdict = "plausible"
        why = [
            f"With everything else equal {_technique(claim)} can give {number(usual)} times as "
            "much; whether it did depends on the baseline."
        ]
    else:
        why = [
            f"The most that {_technique(claim)} can give is {number(usual)} times as much as it is "
            f"usually meant, {number(any_)} on the most generous reading: the baseline decides."
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
    if claim.ceiling is not None:
        return _self_told(claim, gaps, claim.ceiling)
    why = []
    if claim.other_model:
        why.append(f"The size of {claim.other_model!r} is not known here.")
    if claim.other_hardware:
        why.append(
            f"There is no sheet of {claim.other_hardware!r}; give one with --sheets FILE.toml."
        )
    if claim.bits:
        why.append(f"No format of {claim.bits:g} bits is known here; say how many bytes it takes.")
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
        nearest=around(claim, *sheets),
    )


def _self_told(claim: Claim, gaps: list[str], ceiling: float) -> Audit:
    """A run of a model or hardware not known here, against the ceiling that came with it."""
    share = rate(claim) / ceiling
    return Audit(
        claim=claim,
        verdict="plausible" if share <= 1 else "implausible",
        why=[
            f"It is {100 * share:.3g} % of the {number(ceiling)} tokens/s that its hardware allows "
            f"by its own record: {claim.basis}."
        ],
        missing=gaps,
        questions=[blanks.QUESTIONS[name] for name in gaps],
        required={"available": {"tokens_per_s": ceiling}},
        judged=[],
        ratios=[],
        nearest=(),
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


def _decisive(gaps: Sequence[str], judged: Sequence[Judged]) -> list[str]:
    """Conditions on which the verdict depends: with each of their values at its best or worst."""
    usual = [one for one in judged if one.reading.customary] or judged
    found = []
    for name in gaps:
        by_value: dict[str, list[int]] = {}
        for one in usual:
            if (value := one.reading.assumed.get(name)) is not None:
                by_value.setdefault(value, []).append(RANK[one.verdict])
        if len({(max(ranks), min(ranks)) for ranks in by_value.values()}) > 1:
            found.append(name)
    # What is counted follows from whose speed it is.
    return [name for name in found if name != "phase" or "whose" not in found]


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
    new = claim.precision or f"{claim.bits or 4:g}-bit"
    kv = f"K and V in {claim.kv_precision or 'fp8'}"
    names = {"weights": f"{new} weights", "kv": kv, "hardware": "this hardware"}
    return names.get(claim.technique or "", claim.technique or "this")
