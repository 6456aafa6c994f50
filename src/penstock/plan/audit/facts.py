"""An audit as plain values: what `penstock audit --json` prints."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.plan.audit.claim import Claim
from penstock.plan.audit.judge import Judged
from penstock.plan.audit.verdict import Audit


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
        "ceiling": one.ordinary.rate,
        "implausible_above": one.limit,
        "impossible_above": one.sure.rate,
        "binds": one.ordinary.binds,
    }
