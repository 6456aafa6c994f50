"""A claim with its blanks filled, and what the hardware allows it at most.

Two ceilings. The *ordinary* one is the roofline of a step without more
speculation than the claim tells of, over the experts that tokens take in
expectation. The *sure* one gives every doubt to the claim, and only above it
is anything called impossible: every sequence gains `MOST_GAINED` tokens a step
unless the claim says how many, all tokens of a step take the same experts, K
and V are held in four bits, prompts cost nothing (they may be cached), and
arithmetic runs at `ARITHMETIC_SLACK` times the sheet's dense rate.
"""

from __future__ import annotations

import math
from functools import cache

import msgspec

from penstock.plan.audit.claim import Phase, Sized, Whose
from penstock.predict.architecture import BYTES, Architecture
from penstock.predict.sheet import Device, devices

# No lossless drafter is known to gain as much on average: the highest speed-up reported is
# 6.5 (EAGLE-3, arXiv 2503.01840). Where most of an answer is copied from the prompt more can
# be gained, and the claim has to say so (`speculation`).
MOST_GAINED = 8.0
# 2:4 sparsity, and accumulation in 16 bits on consumer cards, each double the dense rate.
ARITHMETIC_SLACK = 2.0
# What the devices' memory cannot hold is read from a host's: each at the rate of the fastest
# link there is (NVLink-C2C, 450 GB/s in one direction; PCIe 5 has 64). Sockets that compute a
# part of the model themselves are hardware that the claim would have to tell.
HOST_BYTES_PER_S = 450e9


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read a claim: `rate` tokens/s of `whose`, and nothing left open but lengths.

    `batch` must be held at once, of `concurrency` some may wait; with neither
    a user is alone, and a system runs as many as fit. `gained` is the tokens a
    sequence gains a step, 1 without speculation; `told` says that the claim
    tells so. K and V are held as `kv`, or as `least_kv` where every doubt is
    given to the claim. `assumed` names what was filled in, `customary` says whether
    that is how such a figure is usually meant.
    """

    rate: float
    whose: Whose
    phase: Phase
    model: Architecture | Sized
    precision: str
    kv: str
    least_kv: str = "fp4"
    device: Device
    devices: int
    batch: int | None = None
    concurrency: int | None = None
    prompt: int | None = None
    output: int | None = None
    gained: float = 1.0
    told: bool = False
    assumed: dict[str, str] = {}
    customary: bool = True

    @property
    def context(self) -> float:
        """Mean tokens before an output token; 0 where lengths are unknown."""
        if self.phase == "prefill":
            return float(self.prompt or 0)
        return (self.prompt or 0) + (self.output or 0) / 2

    def fits(self, kv: str) -> float:
        """Sequences whose K and V the devices hold beside the weights; infinite for no context."""
        room = self.devices * self.device.memory_bytes - self.model.weight_bytes(self.precision)
        each = self.model.kv_bytes(self.context, kv)
        return math.inf if each == 0 and room >= 0 else max(0.0, room / each if each else 0.0)

    def sequences(self, kv: str) -> float:
        """How many run at once, with K and V held so.

        Beside a user's speed it is the reading's own `kv` that counts: narrower
        ones would let more in, and each would be slower.
        """
        kv = self.kv if self.whose == "user" else kv
        if self.batch is not None:
            return self.batch
        if self.concurrency is not None:
            return max(1.0, min(self.concurrency, math.floor(min(self.fits(kv), 1e9))))
        return 1.0 if self.whose == "user" else max(1.0, self.fits(kv))


class Ceiling(msgspec.Struct, frozen=True):
    """The most tokens/s a reading can have, in its own terms, and what binds."""

    rate: float
    binds: str


def ordinary(r: Reading, gained: float | None = None) -> Ceiling:
    """The roofline of a step in which each sequence gains so many tokens (the reading's own)."""
    flops = r.device.matmul_flops(r.precision) or _supposed(r.device)
    return _ceiling(r, r.gained if gained is None else gained, r.kv, flops, sure=False)


def sure(r: Reading) -> Ceiling:
    """What cannot be exceeded however generously the reading is taken."""
    wide = [f for name, f in r.device.flops.items() if BYTES[name] >= BYTES[r.precision] - 0.1]
    flops = ARITHMETIC_SLACK * (max(wide) if wide else _supposed(r.device))
    gained = r.gained if r.told else MOST_GAINED
    return _ceiling(r, gained, r.least_kv, flops, sure=True)


@cache
def _most_intense() -> float:
    """Operations for each byte read: the most of any shipped sheet.

    For devices whose arithmetic nobody tells, so that something bounds them.
    """
    told = (d for d in devices().values() if d.flops)
    return max(max(d.flops.values()) / d.read_bytes_per_s for d in told)


def _supposed(device: Device) -> float:
    return device.read_bytes_per_s * _most_intense()


def step_bytes(r: Reading, gained: float, kv: str, *, sure: bool = False) -> tuple[float, float]:
    """Bytes of weights and of K and V that a step reads; infinite batches read neither's share."""
    sequences = r.sequences(kv)
    if math.isinf(sequences):
        return 0.0, 0.0
    tokens = sequences * (gained if r.phase != "prefill" else max(1, r.prompt or 1))
    weights = r.model.read_bytes(1.0 if sure else tokens, r.precision)
    held = 0.0 if r.phase == "prefill" else r.model.kv_read_bytes(r.context, kv)
    return weights, sequences * held


def token_flops(r: Reading, *, sure: bool = False) -> float:
    """Operations of one counted token: its own, and its share of the prompt's where that counts."""
    model, prompt = r.model, r.prompt or 0
    ahead = model.matmul_flops(1, 0) + model.attended_flops(prompt / 2, expanded=True)
    if r.phase == "prefill":
        return ahead
    forms = [model.attended_flops(r.context, expanded=form) for form in (False, True)]
    own = model.matmul_flops(1, 1) + (min(forms) if sure else forms[0])
    if r.phase == "decode" or r.whose == "user" or sure or not (r.prompt and r.output):
        return own
    return own + r.prompt / r.output * ahead


def counted(r: Reading) -> float:
    """Tokens counted for each output token: prompts count where the figure is a total."""
    both = r.phase == "total" and r.prompt and r.output
    return 1 + (r.prompt or 0) / (r.output or 1) if both else 1.0


def surplus(r: Reading) -> float:
    """Bytes that the devices' memory cannot hold: weights, a sequence's KV, a stated batch's."""
    held = 1 if r.batch is None else r.batch
    kv = held * r.model.kv_bytes(r.context, r.least_kv)
    need = r.model.weight_bytes(r.precision) + kv
    return max(0.0, need - r.devices * r.device.memory_bytes)


def _ceiling(r: Reading, gained: float, kv: str, flops: float, *, sure: bool) -> Ceiling:
    """All sequences advance together: a step takes the longer of its reading and its arithmetic."""
    sequences = r.sequences(kv)
    weights, cache = step_bytes(r, gained, kv, sure=sure)
    per_step = (r.prompt or 1) if r.phase == "prefill" else gained
    if math.isinf(sequences) or (r.phase == "prefill" and r.prompt is None):
        reading = 0.0
    else:
        reading = (weights + cache) / (sequences * r.devices * r.device.read_bytes_per_s)
        reading += min(surplus(r), weights + cache) / (sequences * r.devices * HOST_BYTES_PER_S)
    computing = per_step * token_flops(r, sure=sure) / (r.devices * flops)
    seconds = max(reading, computing)  # of a step, for each sequence
    share = {"user": sequences, "device": r.devices}.get(r.whose, 1)
    if computing >= reading:
        binds = "compute"
    elif surplus(r):
        binds = "reading what does not fit from a host's memory"
    else:
        binds = "reading weights" if weights >= cache else "reading K and V"
    return Ceiling(counted(r) * per_step / seconds / share, binds)
