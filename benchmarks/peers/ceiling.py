"""How fast a load could be at best: bytes over measured bandwidth, operations over measured peak.

Two ceilings. The roofline lets reading and computing overlap at will
(`penstock.predict.roofline`). On a CPU the cores that multiply are the ones
that read, so the second adds the two times up; it is the one to hold engines
against, and a figure may come to lie above it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.base import ROOT, Load, Setting
from penstock.predict import hardware
from penstock.predict.roofline import Shape, decode_flops, lower_bound, prefill_flops


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine was measured to do: bytes/s read, operations/s by arithmetic."""

    read: float
    peak: dict[str, float]


@dataclass(frozen=True, slots=True)
class Least:
    """The least seconds for some work: one after the other, and overlapping at will."""

    summed: float
    overlapped: float

    def fractions(self, seconds: float) -> dict[str, float]:
        """How much of each ceiling was reached by something that took so long."""
        return {
            "limit_fraction": round(self.summed / seconds, 4),
            "roofline_fraction": round(self.overlapped / seconds, 4),
        }


def costs(config: dict[str, Any], setting: Setting) -> Shape:
    """What a checkpoint costs per token in a setting's precision, by its `config.json`."""
    hidden, layers, head = (config[k] for k in ("hidden_size", "num_hidden_layers", "head_dim"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    attention = hidden * head * (2 * heads + 2 * kv_heads)
    matrices = layers * (attention + 3 * hidden * config["intermediate_size"])
    table = hidden * config["vocab_size"]
    return Shape(
        weight_bytes=round((matrices + table) * setting.weight_bits / 8),
        flops_per_token=2 * (matrices + table),
        head_flops=2 * table,
        attention_flops=4 * layers * heads * head,
        kv_bytes_per_token=round(2 * layers * kv_heads * head * setting.kv_bits / 8),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes to be read, and operations to be done with them."""

    nbytes: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nbytes + other.nbytes, self.flops + other.flops)

    def least(self, arithmetic: str, rates: Rates) -> Least:
        """The least time it takes this machine."""
        peak = rates.peak[arithmetic]
        overlapped = lower_bound(self.nbytes, self.flops, rates.read, peak)
        return Least(self.nbytes / rates.read + self.flops / peak, overlapped.seconds)


def prompts(shape: Shape, load: Load) -> Cost:
    """All prompts and the first token of each answer: one pass over the weights.

    What prompts share is computed once.
    """
    flops = float(len(load.prompts) * shape.head_flops)
    flops += sum(len(p) * prefill_flops(shape, len(p)) for p in load.prompts)
    again = len(load.prompts) - 1 if load.shared else 0
    return Cost(shape.weight_bytes, flops - again * load.shared * prefill_flops(shape, load.shared))


def answers(shape: Shape, load: Load) -> Cost:
    """The further tokens, as many steps as the longest answer has; what is shared is read once."""
    steps = max(load.outputs) - 1
    nbytes: float = steps * (shape.weight_bytes + load.shared * shape.kv_bytes_per_token)
    flops = 0.0
    for prompt, output in zip(load.prompts, load.outputs, strict=True):
        contexts = range(len(prompt), len(prompt) + output - 1)  # before each further token
        nbytes += sum(context - load.shared for context in contexts) * shape.kv_bytes_per_token
        flops += sum(decode_flops(shape, context) for context in contexts)
    return Cost(nbytes, flops)


def measured(threads: int, times: int = 3) -> Rates:
    """Rates of this machine, reads over 1 GiB; `threads` must be the CPUs this process may use.

    The best of some times: whatever else runs meanwhile can only lower them.
    """
    once = [_measured(threads) for _ in range(times)]
    names = once[0].peak
    peaks = {name: max(rates.peak[name] for rates in once) for name in names}
    return Rates(max(rates.read for rates in once), peaks)


def _measured(threads: int) -> Rates:
    small = hardware.measure(hardware.MAX_WORKING_SET, ("fp32", "bf16", "int8")).peak_flops
    # In a process of its own: PyTorch's threads would stay, and wait in ours.
    command = [sys.executable, "-m", "benchmarks.peers.peak", str(threads)]
    said = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    large = said["peak"]
    both = {name: max(small.get(name, 0.0), large.get(name, 0.0)) for name in small | large}
    return Rates(said["read"], both)
