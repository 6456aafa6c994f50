"""What a ratio can be: the most that its technique gives, by arithmetic or by what was reported.

A ratio has no ceiling of its own: against a baseline bad enough any is true.
So it is held against what the technique gives when everything else is equal,
and its baseline is the first thing to ask for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from penstock.plan.audit.claim import Claim, Sized
from penstock.plan.audit.evidence import usual_kv
from penstock.plan.audit.measured import Measured, points
from penstock.plan.audit.reading import MOST_GAINED, Reading, ordinary
from penstock.predict.architecture import BYTES, Architecture
from penstock.predict.sheet import Device, devices

_BUSY = 32  # sequences at once
_CONTEXT = (1024, 1024)  # tokens of prompt and output where nothing is told


class Most(msgspec.Struct, frozen=True):
    """The most a technique gives on one reading; `usual` readings are what is usually meant.

    What was `measured` is shown beside them and is no bound.
    """

    factor: float
    reading: str
    usual: bool
    source: str = "arithmetic"
    measured: bool = False


class Reported(msgspec.Struct, frozen=True):
    """Published gains of one technique; `busy` where many sequences share a step."""

    usual: float
    highest: float
    sources: tuple[str, ...]
    busy: float | None = None


def most(claim: Claim, *sheets: Path) -> list[Most]:
    """The most that the claim's technique gives, reading by reading; empty where it names none."""
    if claim.technique == "weights":
        return list(_weights(claim, *sheets))
    if claim.technique == "kv":
        return list(_kv(claim))
    if claim.technique == "hardware":
        return list(_hardware(claim, *sheets))
    if claim.technique == "speculation" and claim.speculation is not None:
        accepted = f"{claim.speculation:g} tokens gained a step, one sequence alone"
        return [Most(claim.speculation, accepted, True)]
    if claim.technique is None:
        return []
    known = reported()[claim.technique]
    busy = max(claim.batch or 1, claim.concurrency or 1) >= _BUSY
    usual, where = known.usual, "what is usually reported"
    if known.busy is not None and busy:
        usual, where = known.busy, f"the most reported with {_BUSY} or more at once"
    found = [
        Most(usual, where, True, "; ".join(known.sources)),
        Most(known.highest, "the most reported", False, known.sources[-1]),
    ]
    if claim.technique == "speculation":
        found.append(Most(MOST_GAINED, "more tokens a step than any drafter gains", False))
    return found


@cache
def reported() -> dict[str, Reported]:
    """Published gains, by technique."""
    text = files("penstock.plan.audit").joinpath("data", "gains.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Reported])


def _weights(claim: Claim, *sheets: Path) -> Iterator[Most]:
    """A step reads fewer bytes, and computes faster where the hardware can."""
    if claim.bits is not None:
        yield Most(16 / claim.bits, f"reading weights, 16 bits to {claim.bits:g}", True)
        yield Most(32 / claim.bits, f"reading weights, 32 bits to {claim.bits:g}", False)
        return
    new = claim.precision or "int4"
    told = None if claim.baseline is None else claim.baseline.precision
    shape, sheet = claim.shape(), claim.sheet(*sheets)
    for old in (told,) if told else ("bf16", "fp32"):
        usual = told is not None or old == "bf16"
        read = _bytes(shape, old) / _bytes(shape, new)
        yield Most(read, f"reading weights, {old} to {new}, at the same batch", usual)
        if shape is not None:
            whole = BYTES[old] / BYTES[new]
            yield Most(whole, f"the same if the head were in {new} too", False)
        rates = [sheet] if sheet else list(devices().values())
        speed = max((_arithmetic(one, new) / _arithmetic(one, old) for one in rates), default=1.0)
        where = sheet.title if sheet else "the hardware that gains most"
        yield Most(speed, f"arithmetic of full batches, {old} to {new}, on {where}", usual)
        if shape and sheet and claim.devices and claim.whose != "user" and old == (told or "bf16"):
            yield from _room(claim, shape, sheet, old, new)
    yield from _measured(claim, new)


def _measured(claim: Claim, new: str) -> Iterator[Most]:
    """What published measurements show of narrower weights on otherwise equal terms."""
    best: dict[tuple[str, str, int, int, int], dict[float, Measured]] = {}
    for p in points():
        if p.system is not None and claim.model in (None, p.model):
            alike = best.setdefault((p.model, p.device, p.devices, p.prompt, p.output), {})
            width = BYTES[p.precision]
            if width not in alike or p.system > (alike[width].system or 0.0):
                alike[width] = p
    found = [
        ((slim.system or 0.0) / (wide.system or 1.0), wide.precision, slim)
        for alike in best.values()
        for a, wide in alike.items()
        for b, slim in alike.items()
        if abs(b - BYTES[new]) < 0.1 and a > 1.2 * b
    ]
    pairs = sorted(found, key=lambda pair: pair[0])
    for name, pair in (("half", pairs[len(pairs) // 2 :]), ("all", pairs[-1:])):
        for factor, old, p in pair[:1]:
            said = (
                f"{name} of {len(pairs)} measured pairs gain no more ({old} to {p.precision}, each "
                f"at its best load: {p.model} on {p.devices} × {p.device}, {p.prompt:,}/"
                f"{p.output:,})"
            )
            yield Most(factor, said, False, p.source, measured=True)


def _kv(claim: Claim) -> Iterator[Most]:
    """Of narrower K and V more sequences fit, and each is read as much faster."""
    new = claim.kv_precision or "fp8"
    told = None if claim.baseline is None else claim.baseline.kv_precision
    for old in (told,) if told else ("bf16", "fp32"):
        said = f"reading and holding K and V, {old} to {new}"
        yield Most(BYTES[old] / BYTES[new], said, told is not None or old == "bf16")


def _room(
    claim: Claim, shape: Architecture | Sized, sheet: Device, old: str, new: str
) -> Iterator[Most]:
    """More sequences fit beside smaller weights: the only way to gain more than bytes do."""
    count, kv = claim.devices or 1, usual_kv(old)
    before, after = (_full(claim, shape, sheet, count, precision=of, kv=kv) for of in (old, new))
    if before and after:
        yield Most(after / before, f"as many sequences as fit each, {old} to {new}", True)


def _hardware(claim: Claim, *sheets: Path) -> Iterator[Most]:
    """Bandwidth for single answers, arithmetic for full batches, and memory for how full."""
    baseline, shape = claim.baseline, claim.shape()
    ours, theirs = claim.sheet(*sheets), None if baseline is None else baseline.sheet(*sheets)
    if ours is None or theirs is None or baseline is None:
        return
    count, other = claim.devices or 1, baseline.devices or claim.devices or 1
    said = f"{count} × {ours.title} against {other} × {theirs.title}"
    scale = count / other
    yield Most(scale * ours.read_bytes_per_s / theirs.read_bytes_per_s, f"bandwidth, {said}", True)
    new, old = (max(one.flops.values(), default=None) for one in (ours, theirs))
    if new and old:
        yield Most(scale * new / old, f"fastest arithmetic, {said}", True)
    yield Most(scale * ours.memory_bytes / theirs.memory_bytes, f"memory, {said}", False)
    if shape is not None and claim.precision is not None:
        kv = claim.kv_precision or usual_kv(claim.precision)
        after = _full(claim, shape, ours, count, precision=claim.precision, kv=kv)
        before = _full(claim, shape, theirs, other, precision=claim.precision, kv=kv)
        if before and after:
            yield Most(after / before, f"as many sequences as fit each, {said}", True)


def _full(
    claim: Claim, shape: Architecture | Sized, sheet: Device, count: int, *, precision: str, kv: str
) -> float | None:
    """Ceiling in tokens/s of as many sequences as fit; None where not one does."""
    reading = Reading(
        rate=1.0,
        whose="system",
        phase="served",
        model=shape,
        precision=precision,
        kv=kv,
        device=sheet,
        devices=count,
        prompt=claim.prompt or _CONTEXT[0],
        output=claim.output or _CONTEXT[1],
    )
    return ordinary(reading).rate if reading.fits(kv) >= 1 else None


def _bytes(shape: Architecture | Sized | None, precision: str) -> float:
    return BYTES[precision] if shape is None else shape.read_bytes(1, precision)


def _arithmetic(sheet: Device, precision: str) -> float:
    """Operations/s on weights held so; 1 where the sheet does not tell, so that nothing is gained.

    Four-bit weights without a unit of their own may use that of eight bits.
    """
    if precision == "int4":
        rates = [f for name, f in sheet.flops.items() if name != "fp32"]
        return max(rates, default=1.0)
    if precision == "fp32":
        # Tensor units take 32-bit weights as TF32, at half their 16-bit rate.
        return max(sheet.flops.get("fp32", 0.0), (sheet.matmul_flops("bf16") or 2.0) / 2)
    return sheet.matmul_flops(precision) or 1.0
