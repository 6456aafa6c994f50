"""Fills a claim's blanks in every sensible way: its readings, and what is missing.

What is left open generously is not enumerated: unknown lengths cost nothing,
and as many sequences run as suit the claim (one for a user's speed, as many as
fit for a system's).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from penstock.plan.audit.claim import Baseline, Claim, Phase, Sized, Whose, rate
from penstock.plan.audit.evidence import usual_kv
from penstock.plan.audit.reading import MOST_GAINED, Reading
from penstock.predict.architecture import BYTES, Architecture
from penstock.predict.sheet import Device, devices

# Formats that a model may be served in where nobody says, and those of them that are narrower
# than what it was published in are as usual as that.
_FORMATS = ("bf16", "fp8", "fp4")
# Tokens gained a step where speculation is used and nobody says how many come of it.
_GAINED = (2.0, MOST_GAINED)

_GROUPS, _REPLICAS = 4, 1000

# Which question settles each condition.
QUESTIONS = {
    "baseline": "What exactly is the figure compared with: which software, weight format, "
    "hardware, how many devices, and at what load?",
    "baseline figure": "How many tokens/s did the baseline reach?",
    "model": "Which model is it, with how many parameters, of which how many are active?",
    "hardware": "On which hardware?",
    "devices": "On how many devices?",
    "precision": "In which format are the weights held, and K and V?",
    "whose": "Is it the speed that one user sees, or that of all users together, or of one device?",
    "concurrency": "How many requests are in flight, and how many sequences in one step?",
    "prompt": "How long are the prompts, and are any of their tokens found in a cache?",
    "output": "How long are the answers?",
    "phase": "Which tokens are counted: those of answers only, or prompts too, and over "
    "decoding alone or whole requests?",
    "speculation": "Is speculation used, and how many tokens does it gain a step on this text?",
}


def missing(claim: Claim) -> list[str]:
    """Conditions that the claim does not tell; those without which least can be said come first."""
    told = {
        "baseline": claim.unit != "x" or _is_told(claim.baseline),
        "baseline figure": claim.unit != "x" or (claim.baseline or Baseline()).figure is not None,
        "model": claim.model is not None or claim.parameters is not None,
        "hardware": claim.hardware is not None,
        "devices": claim.devices is not None,
        "precision": (claim.precision or claim.bits) is not None,
        "whose": claim.whose not in (None, "ratio"),
        "concurrency": (claim.batch or claim.concurrency or claim.user_speed) is not None,
        "prompt": claim.prompt is not None,
        "output": claim.output is not None or claim.phase == "prefill",
        "phase": claim.phase is not None or claim.whose == "user",
        "speculation": claim.speculation is not None or claim.phase == "prefill",
    }
    return [name for name, known in told.items() if not known]


def _is_told(baseline: Baseline | None) -> bool:
    """Whether anything is known of it: "than GPUs" says nothing that could be checked."""
    return baseline is not None and baseline != Baseline(said=baseline.said, whose=baseline.whose)


def readings(claim: Claim, *sheets: Path) -> Iterator[Reading]:
    """Every reading of an absolute claim; none where model, hardware or format are not known."""
    shape, sheet = claim.shape(), claim.sheet(*sheets)
    if shape is None or claim.bits or (sheet is None and claim.other_hardware is not None):
        return
    for one in [sheet] if sheet is not None else devices().values():
        yield from _on(claim, shape, one)


def _on(claim: Claim, shape: Architecture | Sized, sheet: Device) -> Iterator[Reading]:
    axes = product(_whose(claim), _precisions(claim, shape), _gained(claim))
    for (whose, customary), precision, gained in axes:
        counts = _devices(claim, sheet, whose, shape.weight_bytes(precision))
        rest = product(counts, _phases(claim, whose))
        for (count, near), (phase, usual) in rest:
            if whose == "device" != claim.whose and count == 1:
                continue  # the same as the system's
            assumed: dict[str, Any] = {
                "hardware": sheet.name,
                "devices": count,
                "whose": whose,
                "precision": precision,
                "phase": phase,
                "speculation": gained,
            }
            figure = rate(claim)
            concurrency = claim.concurrency
            if claim.user_speed is not None and whose != "user":
                every = figure * (count if whose == "device" else 1)
                concurrency = max(1, round(every / claim.user_speed))
            yield Reading(
                rate=figure,
                whose=whose,
                phase=phase,
                model=shape,
                precision=precision,
                kv=claim.kv_precision or usual_kv(precision),
                least_kv=claim.kv_precision or "fp4",
                device=sheet,
                devices=count,
                batch=claim.batch,
                concurrency=concurrency,
                prompt=claim.prompt,
                output=claim.output,
                gained=gained,
                told=claim.speculation is not None,
                assumed={k: str(v) for k, v in assumed.items() if getattr(claim, k) is None},
                customary=customary and near and usual,
            )


def _devices(
    claim: Claim, sheet: Device, whose: Whose, weight_bytes: float
) -> list[tuple[int, bool]]:
    """As many as told, or else one, what the scale-up link joins, or groups of those.

    Some groups can share a model over the network. Of replicas there may be
    any number, but then no load is told.
    """
    if claim.devices is not None:
        return [(claim.devices, True)]
    joined = sheet.link_devices
    group = max(joined, math.ceil(weight_bytes / sheet.memory_bytes))
    groups = _REPLICAS if whose == "system" and not _loaded(claim) else _GROUPS
    return [(count, True) for count in sorted({1, joined})] + [(groups * group, False)]


def _whose(claim: Claim) -> list[tuple[Whose, bool]]:
    """Whose speed it may be. A figure told beside a load is customarily that of the whole."""
    if claim.whose is not None and claim.whose != "ratio":
        return [(claim.whose, True)]
    return [("user", not _loaded(claim)), ("system", True), ("device", False)]


def _loaded(claim: Claim) -> bool:
    return (claim.batch or claim.concurrency or 1) > 1 or claim.user_speed is not None


def _phases(claim: Claim, whose: Whose) -> list[tuple[Phase, bool]]:
    """What may be counted, for this one."""
    if claim.phase is not None:
        return [(claim.phase, True)]
    if whose == "user":
        return [("decode", True)]
    total: list[tuple[Phase, bool]] = [("total", False)] if claim.prompt and claim.output else []
    return [("served", True), *total]


def _precisions(claim: Claim, shape: Architecture | Sized) -> list[str]:
    """As told, or else the format the model is published in and all that are narrower."""
    if claim.precision is not None:
        return [claim.precision]
    own = shape.weights if isinstance(shape, Architecture) else "bf16"
    return list(dict.fromkeys([own, *(p for p in _FORMATS if BYTES[p] < BYTES[own])]))


def _gained(claim: Claim) -> list[float]:
    if claim.speculation is not None:
        return [claim.speculation]
    return list(_GAINED) if claim.speculative else [1.0]
