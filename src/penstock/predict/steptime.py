"""How long a step takes, as a function of what is in it.

`StepLoad` says what one step computes, a `StepTime` gives its seconds. There are two kinds:
`PhysicalStepTime` (see `predict/physical.py`) knows model and hardware, and how much
of the hardware's rates is reached; `MeasuredStepTime`, here, knows neither, only what each
thing cost on a server whose timings were seen.

A step time is kept in a TOML file, which `penstock calibrate` writes and `load_steptime` reads
(`load_draws` gives the fit's bootstrap replicates, to turn into an interval for anything
that is computed from a step time):

    format = 1
    kind = "physical"           # or "measured"; a [costs] table then stands in place of
    request_s = 0.012           #   [deployment], [efficiencies] and [overheads]
    pages = 2588                # KV pool of the server that was seen, where that is known:
    page_size = 16              #   replaces the pool computed from the device's memory

    [deployment]                # names as `penstock hardware list` and `penstock models` know them
    model = "meta-llama/Llama-3.1-8B"
    device = "h100"
    weights = "bf16"
    kv = "bf16"
    tp = 1                      # pp, ep, dp likewise

    [efficiencies]              # see Efficiencies
    bandwidth = 0.83

    [overheads]                 # see Overheads, seconds
    step_s = 0.0011

    [fit]                       # how it was obtained; nothing computes with this
    source = "runs/20261121-103204"

    [[draws]]                   # bootstrap replicates: parameters by the names above
    bandwidth = 0.82
    step_s = 0.0012
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class StepLoad(msgspec.Struct, frozen=True, gc=False):
    """What one step computes.

    `prefill_tokens` are computed in chunks of prompts, and `prefill_pairs` is
    the sum over those tokens of the context each sees (itself included).
    `decodes` sequences compute one token each; `decode_context` is the sum of
    their contexts. Logits are taken for `logits` rows: every decode, and every
    chunk that ends its prompt.
    """

    prefill_tokens: float = 0
    prefill_pairs: float = 0
    decodes: float = 0
    decode_context: float = 0
    logits: float = 0


class StepTime(Protocol):
    """Seconds of a step. Called once for each simulated step: keep it to microseconds.

    `request_s` is what a request spends outside of steps before its first
    token can be seen (HTTP, tokenizing, handing over): part of its TTFT, no
    load on the device.
    """

    @property
    def request_s(self) -> float:
        """Seconds a request spends outside of steps."""
        ...

    def seconds(self, load: StepLoad) -> float:
        """Seconds of one step with this load, from one step's start to the next one's."""
        ...


def chunk_pairs(start: int, end: int) -> float:
    """The pairs of a chunk of tokens `start:end`: token i (from 0) sees i + 1 tokens."""
    return (end - start) * (start + end + 1) / 2
