"""One reading of a claim, held against the hardware and against what was measured, in words too."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from penstock.plan.audit.evidence import MARGIN, Evidence, evidence
from penstock.plan.audit.reading import (
    MOST_GAINED,
    Ceiling,
    Reading,
    counted,
    ordinary,
    step_bytes,
    sure,
    surplus,
    token_flops,
)
from penstock.record.sentences import number

Verdict = Literal["impossible", "implausible", "plausible", "underspecified"]
RANK = {"impossible": 0, "implausible": 1, "plausible": 2}


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
        most = self.sure.rate if self.verdict == "impossible" else self.limit
        return RANK[self.verdict], most / self.reading.rate


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
    else:
        why = f"it needs {_percent(found.share)} of what {plain.binds} allows"
    return msgspec.structs.replace(found, verdict=verdict, why=why)


def required(r: Reading) -> dict[str, Any]:
    """What the reading's rate takes, and what its hardware has: bytes, operations, capacity."""
    sequences = r.sequences(r.kv)
    weights, cache = step_bytes(r, r.gained, r.kv)
    tokens = (r.prompt or 1) if r.phase == "prefill" else r.gained
    of_system = r.rate / counted(r) * {"user": sequences, "device": r.devices}.get(r.whose, 1)
    steps = of_system / (sequences * tokens) if math.isfinite(sequences) else 0.0
    flops = r.device.matmul_flops(r.precision)
    kept = r.model.kv_bytes(r.context, r.kv)
    reads = steps * (weights + cache)
    there = r.devices * r.device.read_bytes_per_s
    return {
        "system_tokens_per_s": of_system if math.isfinite(of_system) else None,
        "sequences": sequences if math.isfinite(sequences) else None,
        "bytes_per_s": reads,
        "flops_per_s": of_system * token_flops(r) if math.isfinite(of_system) else None,
        "weight_bytes": r.model.weight_bytes(r.precision),
        "kv_bytes": sequences * kept if math.isfinite(sequences) else 0.0,
        "tokens_per_step": r.gained * max(1.0, reads / there),
        "available": {
            "bytes_per_s": there,
            "flops_per_s": r.devices * flops if flops else None,
            "memory_bytes": r.devices * r.device.memory_bytes,
        },
    }


def said(r: Reading) -> str:
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
    rest = f" and {(held + surplus(r) - weights) / 1e9:,.1f} GB of K and V"
    return (
        f"{r.model.name} has {weights / 1e9:,.1f} GB of weights in {r.precision}"
        f"{rest if weights <= held else ''}, but {r.devices} × {r.device.title} "
        f"{'hold' if r.devices > 1 else 'holds'} {held / 1e9:,.1f} GB"
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
