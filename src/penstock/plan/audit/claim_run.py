"""A run of ours as a claim: its best operating point with the conditions it recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.plan.audit.claim import Claim, checked
from penstock.plan.audit.claim_words import Words, format_in, hardware_in, model_in
from penstock.record.run import load
from penstock.record.sentences import claimable, load_name
from penstock.record.summary import summarise


def read(directory: Path) -> Claim:
    """The highest output throughput of a run that may be claimed.

    A model or hardware that is not known here stays by its name alone. Raises
    `ValueError` where there is no run, or none of its requests finished.
    """
    # Anew from its records: an older version's summary may lack what is read here.
    points = [p for p in summarise(load(directory))["points"] if p["output_throughput"]["value"]]
    if not points:
        raise ValueError(f"{directory} has no throughput to audit: no request finished.")
    point = max(claimable(points), key=lambda p: p["output_throughput"]["value"])
    conditions = point["conditions"]
    model = model_in(Words(str(conditions.get("model") or "")))
    hardware = hardware_in(Words(str(conditions.get("hardware") or "")))
    claim = Claim(
        figure=point["output_throughput"]["value"],
        whose="system",
        phase="served",
        model=model.name,
        parameters=None if model.name else model.parameters,
        other_model=None if model.name else _named(conditions, "model"),
        precision=format_in(Words(str(conditions.get("precision") or ""))),
        hardware=hardware.name,
        other_hardware=None if hardware.name else _named(conditions, "hardware"),
        devices=hardware.devices or (1 if hardware.name else None),
        concurrency=point["load"]["concurrency"],
        prompt=_mean(point, "prompt"),
        output=_mean(point, "output"),
        ceiling=point["limit"]["output_throughput"],
        basis=str(point["limit"]["basis"]),
        text=f"{directory.name}: {load_name(point['load'])}",
    )
    return checked(claim, str(directory))


def _named(conditions: Mapping[str, Any], name: str) -> str | None:
    said = conditions.get(name)
    return None if said in (None, "unknown") else str(said)


def _mean(point: Mapping[str, Any], of: str) -> int | None:
    tokens, requests = point["tokens"][of], point["requests"]
    return max(1, round(tokens / requests)) if tokens and requests else None
