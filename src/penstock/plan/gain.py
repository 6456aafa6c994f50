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

from penstock.plan.claim import Claim, Sized
from penstock.plan.reading import MOST_GAINED, Reading, ordinary
from penstock.predict.architecture import BYTES, Architecture
from penstock.predict.sheet import Device, devices

_CONTEXT = (1024, 1024)  # tokens of prompt and output where nothing is told


class Most(msgspec.Struct, frozen=True):
    """The most a technique gives on one reading; `usual` readings are what is usually meant."""

    factor: float
    reading: str
    usual: bool
    source: str = "arithmetic"


class Reported(msgspec.Struct, frozen=True):
    """Published gains of one technique."""

    usual: float
    highest: float
    sources: tuple[str, ...]


def most(claim: Claim, *sheets: Path) -> list[Most]:
    """The most that the claim's technique gives, reading by reading; empty where it names none."""
    if claim.technique == "weights":
        return list(_weights(claim, *sheets))
    if claim.technique == "hardware":
        return list(_hardware(claim, *sheets))
    if claim.technique == "speculation" and claim.speculation is not None:
        accepted = f"{claim.speculation:g} tokens gained a step, one sequence alone"
        return [Most(claim.speculation, accepted, True)]
    if claim.technique is None:
        return []
    known = reported()[claim.technique]
    found = [
        Most(known.usual, "what is usually reported", True, "; ".join(known.sources)),
        Most(known.highest, "the most reported", False, known.sources[-1]),
    ]
    if claim.technique == "speculation":
        found.append(Most(MOST_GAINED, "more tokens a step than any drafter gains", False))
    return found


@cache
def reported() -> dict[str, Reported]:
    """Published gains, by technique."""
    text = files("penstock.plan").joinpath("data", "gains.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Reported])


def _weights(claim: Claim, *sheets: Path) -> Iterator[Most]:
    """A step reads fewer bytes, and computes faster where the hardware can."""
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


def _room(
    claim: Claim, shape: Architecture | Sized, sheet: Device, old: str, new: str
) -> Iterator[Most]:
    """More sequences fit beside smaller weights: the only way to gain more than bytes do."""
    prompt, output = claim.prompt or _CONTEXT[0], claim.output or _CONTEXT[1]
    rates = []
    for precision in (old, new):
        reading = Reading(
            rate=1.0,
            whose="system",
            phase="served",
            model=shape,
            precision=precision,
            kv=old if BYTES[old] > 1 else "fp8",
            device=sheet,
            devices=claim.devices or 1,
            prompt=prompt,
            output=output,
        )
        if reading.fits(reading.kv) < 1:
            return
        rates.append(ordinary(reading).rate)
    said = f"as many sequences of {prompt:,} + {output:,} tokens as fit each, {old} to {new}"
    yield Most(rates[1] / rates[0], said, True)


def _hardware(claim: Claim, *sheets: Path) -> Iterator[Most]:
    """Bandwidth for single answers, arithmetic for full batches; as many devices as are told."""
    baseline = claim.baseline
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
