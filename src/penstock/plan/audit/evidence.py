"""The measured points nearest to a claim, and how much of its ceiling anything like it reached.

Figures of different models and devices are compared by the *share* of the
ordinary ceiling that each reached under its own conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.plan.audit.claim import Claim, rate
from penstock.plan.audit.measured import Measured, points
from penstock.plan.audit.reading import Reading, ordinary
from penstock.predict.architecture import BYTES, architecture
from penstock.predict.sheet import device

Kind = Literal["user", "system", "prefill"]
# Points within this distance are "like" the claim, if there are so many of them.
NEAR, ENOUGH = 1.5, 5
# How far above the best of those a figure may lie: software gains that much in a year or so.
MARGIN = 1.25
_TRIED = 64  # points like a claim that are tried for what it leaves open
# What each doubling of a condition's difference adds to the distance.
_WEIGHTS = {
    "active": 0.5,  # parameters that a token takes
    "parameters": 0.25,
    "bandwidth": 1.0,  # of the device
    "precision": 1.0,  # bytes of a weight
    "devices": 0.5,
    "running": 0.5,  # sequences at once
    "prompt": 0.25,
    "output": 0.25,
}
_OTHER = {"model": 0.25, "device": 0.5}  # added where these are not the same

_Floats = npt.NDArray[np.float64]


class Near(msgspec.Struct, frozen=True):
    """A measured point, its figure in the claim's terms, its share of its ceiling, how far off."""

    point: Measured
    rate: float
    share: float
    distance: float


class Evidence(msgspec.Struct, frozen=True):
    """The nearest points, and what points like the claim would have reached in its place.

    `best` is that in tokens/s, in the claim's terms: the highest of their
    shares, each times the claim's ordinary ceiling under the conditions of
    that point `like` it, as far as the claim leaves them open. None where too
    few points are near enough to say.
    """

    nearest: tuple[Near, ...]
    best: float | None = None
    like: Near | None = None


def evidence(r: Reading, count: int = 5, skip: str = "") -> Evidence:
    """What was measured near a reading; `skip` leaves out a model, to judge without it."""
    kind = kind_of(r)
    table = _table(kind)
    far = table.distances(_of(r), {"model": r.model.name, "device": r.device.name})
    if skip:
        far = np.where(table.names["model"] == skip, np.inf, far)
    nearest = table.nearest(far, count, per_device=r.whose == "device")
    near = np.flatnonzero(far <= NEAR)
    if len(near) < ENOUGH:
        return Evidence(nearest)
    if _open(r):
        # The points under whose conditions most can be had come first, so few suffice.
        near = near[np.argsort(-table.shares[near] * table.rates[near])][:_TRIED]
    else:
        near = near[[np.argmax(table.shares[near])]]
    given = [table.shares[i] * ordinary(_filled(r, table.points[i])).rate for i in near]
    best = int(np.argmax(given))
    return Evidence(
        nearest, float(given[best]), table.near(int(near[best]), far, r.whose == "device")
    )


def around(claim: Claim, *sheets: Path, count: int = 5) -> tuple[Near, ...]:
    """Measured points near a claim of which model or hardware is not known, by what is told."""
    kind: Kind = "prefill" if claim.phase == "prefill" else "user"
    if kind == "user" and (claim.whose in ("system", "device") or (claim.concurrency or 1) > 1):
        kind = "system"
    sheet, shape = claim.sheet(*sheets), claim.shape()
    told = {
        "active": shape.active_parameters if shape else None,
        "parameters": shape.parameters if shape else None,
        "bandwidth": sheet.read_bytes_per_s if sheet else None,
        "precision": BYTES[claim.precision] if claim.precision else None,
        "devices": claim.devices,
        "running": claim.batch or claim.concurrency,
        "prompt": claim.prompt,
        "output": claim.output,
    }
    table = _table(kind)
    far = table.distances({name: float(value or np.nan) for name, value in told.items()}, {})
    scale = np.array([p.devices for p in table.points]) if claim.whose == "device" else 1.0
    far = far + np.abs(np.log2(table.rates / scale / rate(claim)))
    return table.nearest(far, count, per_device=claim.whose == "device")


def _open(r: Reading) -> bool:
    """Whether lengths, or how many run at once, are left open."""
    alone = r.whose == "user" or r.batch is not None or r.concurrency is not None
    return r.prompt is None or r.output is None or not alone


def _filled(r: Reading, p: Measured) -> Reading:
    """The reading under a point's lengths and load, where it has none of its own."""
    free = r.batch is None and r.concurrency is None and r.whose != "user" and p.running is not None
    return msgspec.structs.replace(
        r,
        prompt=p.prompt if r.prompt is None else r.prompt,
        output=p.output if r.output is None else r.output,
        batch=max(1, round(p.running or 1)) if free else r.batch,
    )


def kind_of(r: Reading) -> Kind:
    """Which of a point's figures a reading is to be compared with."""
    if r.phase == "prefill":
        return "prefill"
    return "user" if r.whose == "user" or r.phase == "decode" else "system"


def reading_of(p: Measured, kind: Kind) -> Reading:
    """A measured point as a reading of its own figure."""
    rate = {"user": p.user, "system": p.system, "prefill": p.prefill}[kind]
    assert rate is not None
    return Reading(
        rate=rate,
        whose="user" if kind == "user" else "system",
        phase={"user": "decode", "system": "served", "prefill": "prefill"}[kind],  # type: ignore[arg-type]
        model=architecture(p.model),
        precision=p.precision,
        kv=usual_kv(p.precision),
        device=device(p.device),
        devices=p.devices,
        batch=None if p.running is None else max(1, round(p.running)),
        prompt=p.prompt,
        output=p.output,
    )


def usual_kv(precision: str) -> str:
    """How K and V are held where nobody says: as the weights, but in 8 bits at least."""
    return precision if BYTES[precision] > 1 else "fp8"


class _Table:
    """Conditions of the points that have a figure of one kind, as arrays of logarithms."""

    def __init__(self, kind: Kind) -> None:
        self.points = [p for p in points() if getattr(p, kind) is not None]
        readings = [reading_of(p, kind) for p in self.points]
        self.rates = np.array([r.rate for r in readings])
        self.shares = np.array([r.rate / ordinary(r).rate for r in readings])
        self._columns = {name: np.log2([_of(r)[name] for r in readings]) for name in _WEIGHTS}
        self.names = {
            "model": np.array([r.model.name for r in readings]),
            "device": np.array([r.device.name for r in readings]),
        }

    def distances(self, values: Mapping[str, float], names: Mapping[str, str]) -> _Floats:
        """How far each point's conditions are from the given; those that are not add nothing."""
        far: _Floats = np.zeros(len(self.points))
        for name, value in values.items():
            if np.isfinite(value):
                apart = np.abs(self._columns[name] - np.log2(value))
                far += _WEIGHTS[name] * np.where(np.isfinite(apart), apart, 0.0)
        for name, said in names.items():
            far += _OTHER[name] * (self.names[name] != said)
        return far

    def nearest(self, far: _Floats, count: int, *, per_device: bool) -> tuple[Near, ...]:
        """The nearest points; of those equally near the highest figures say what can be had."""
        order = np.lexsort((-self.rates, np.round(far, 1)))[:count]
        return tuple(self.near(int(i), far, per_device) for i in order if np.isfinite(far[i]))

    def near(self, i: int, far: _Floats, per_device: bool) -> Near:
        """One point, its rate that of each device where the claim's is."""
        point = self.points[i]
        scale = point.devices if per_device else 1
        return Near(point, float(self.rates[i]) / scale, float(self.shares[i]), float(far[i]))


def _of(r: Reading) -> dict[str, float]:
    told = r.batch is not None or r.concurrency is not None or r.whose == "user"
    return {
        "active": float(r.model.active_parameters),
        "parameters": float(r.model.parameters),
        "bandwidth": r.device.read_bytes_per_s,
        "precision": BYTES[r.precision],
        "devices": float(r.devices),
        "running": r.sequences(r.kv) if told else np.nan,
        "prompt": float(r.prompt or 0) or np.nan,
        "output": float(r.output or 0) or np.nan,
    }


@cache
def _table(kind: Kind) -> _Table:
    return _Table(kind)
