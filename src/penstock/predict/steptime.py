"""How long a step takes, as a function of what is in it.

`StepLoad` says what one step computes; a `StepTime` gives its seconds. There are two:
`PhysicalStepTime` knows model and hardware and which share of the hardware's rates is
reached; `MeasuredStepTime` knows neither, only what each thing cost on a server whose
timings were seen. Both add the same terms (docs/step_time.md):

    weights, or the arithmetic on them, whichever takes longer
    + reading K and V + attention of the chunks + communication
    + per layer + per sequence + per logits row + per step          (and, outside, per request)

A step time is kept in a TOML file, which `penstock calibrate` writes and
`penstock.predict.stepfile.load_steptime(path) -> StepTime` reads; `load_draws(path)`
gives the fit's bootstrap replicates, each a StepTime too: run anything with each of
them, and the spread of the answers is its interval.

    format = 1
    pages = 2588                # KV pool of the server that was seen, where it is known:
    page_size = 16              #   in place of the pool computed from the device's memory

    [deployment]                # names that `architecture` and `device` know; pp, ep, dp too
    model = "meta-llama/Llama-3.1-8B"
    device = "h100"
    weights = "bf16"
    kv = "bf16"
    tp = 1

    [estimate.efficiencies]     # see Efficiencies. A MeasuredStepTime has no [deployment],
    bandwidth = 0.83            #   and [estimate.costs] in place of these two tables
    [estimate.overheads]        # see Overheads
    step_s = 0.0011

    [[draws]]                   # bootstrap replicates, each with the tables of [estimate] and
                                #   a `scale` of all times for what no parameter explains

    [fit]                       # how it was obtained; nothing computes with this
    source = "runs/20261121-103204"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

# Reading weights and computing with them overlap, though not perfectly where both take
# about as long: t = (r^p + c^p)^(1/p), the largest alone for p without bound. Fitted on
# matrix products measured on H100, H200 and B200; see docs/step_time.md.
OVERLAP = 2.0


class StepLoad(msgspec.Struct, frozen=True, gc=False):
    """What one step computes.

    `prefill_tokens` are computed in chunks of prompts, and `prefill_pairs` is
    the sum over those tokens of the context each sees (itself included, see
    `chunk_pairs`). `decodes` sequences compute one token each;
    `decode_context` is the sum of their contexts. Logits are taken for
    `logits` rows: every decode, and every chunk that ends its prompt.
    """

    prefill_tokens: float = 0
    prefill_pairs: float = 0
    decodes: float = 0
    decode_context: float = 0
    logits: float = 0


class StepTime(Protocol):
    """Seconds of a step. Called once for each simulated step: keep it to microseconds."""

    @property
    def request_s(self) -> float:
        """Seconds a request spends outside of steps before its first token is seen.

        HTTP, tokenizing, handing over: part of its TTFT, no load on the device.
        """
        ...

    def seconds(self, load: StepLoad) -> float:
        """Seconds from the start of a step with this load to the start of the next one."""
        ...


def chunk_pairs(start: int, end: int) -> float:
    """The pairs of a chunk of tokens `start:end`: the token at i (from 0) sees i + 1."""
    return (end - start) * (start + end + 1) / 2


class Work(NamedTuple):
    """One step's work, each part in the unit that its entry of `Costs` prices.

    For a `PhysicalStepTime` the parts are seconds at the sheet's full rates,
    or counts; for a `MeasuredStepTime` all are counts.
    """

    read: Any
    compute: Any
    experts_read: Any
    experts_compute: Any
    kv: Any
    decode_attention: Any
    attention: Any
    link: Any
    collectives: Any
    layers: Any
    sequences: Any
    logits: Any


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds per unit of each part of `Work`, all at least 0.

    Of a `MeasuredStepTime`: `read` is the seconds of reading all weights,
    `compute` those of one token's arithmetic, `kv` and `attention` those of one token of
    context that a decode or a chunk's token sees, `sequence` and `logits`
    those of one row, `step` those of any step, `request` see `StepTime.request_s`.
    """

    read: float = 0.0
    compute: float = 0.0
    experts_compute: float = 0.0
    kv: float = 0.0
    attention: float = 0.0
    link: float = 0.0
    collective: float = 0.0
    layer: float = 0.0
    sequence: float = 0.0
    logits: float = 0.0
    step: float = 0.0
    request: float = 0.0

    def times(self, factor: float) -> Costs:
        """The costs of a server that takes so many times as long for everything."""
        each = msgspec.structs.asdict(self)
        return Costs(**{name: factor * value for name, value in each.items()})


def terms(work: Work, costs: Costs) -> dict[str, Any]:
    """Seconds of each term. Parts may be arrays: one entry for each of many steps."""
    return {
        "weights": _longer(work.read * costs.read, work.compute * costs.compute),
        "experts": _longer(
            work.experts_read * costs.read, work.experts_compute * costs.experts_compute
        ),
        "kv": _longer(work.kv * costs.kv, work.decode_attention * costs.attention),
        "attention": work.attention * costs.attention,
        "communication": work.link * costs.link + work.collectives * costs.collective,
        "layers": work.layers * costs.layer,
        "sequences": work.sequences * costs.sequence + work.logits * costs.logits,
        "step": costs.step,
    }


def _longer(read: Any, compute: Any) -> Any:
    return (read**OVERLAP + compute**OVERLAP) ** (1 / OVERLAP)


# Medians over measured kernels (benchmarks/results/kernel_efficiencies.json). There are none of
# fp32 and fp4: fp32 is taken as bf16, and fp4 to lose against fp8 as fp8 does against bf16.
COMPUTE = {"fp32": 0.77, "bf16": 0.77, "int8": 0.46, "fp8": 0.46, "fp4": 0.28}


class Efficiencies(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which share of the sheet's rates is reached, each in (0, 1].

    Of memory bandwidth by weights and by K and V, of the dense rate of each
    precision by matrix products, of the 16-bit rate by attention, of the
    scale-up link. The defaults were read off kernels measured on H100, H200
    and B200, not off any served model: docs/step_time.md.
    """

    bandwidth: float = 0.85
    kv: float = 0.77
    compute: Mapping[str, float] = {}  # by precision; what is absent is as in `COMPUTE`
    attention: float = 0.50
    link: float = 0.70

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in ("bandwidth", "kv", "attention", "link")}
        for name, value in {**values, **self.compute}.items():
            if not 0 < value <= 1:
                raise ValueError(
                    f"the efficiency {name}={value} must lie in (0, 1]: hardware gives at most "
                    "what its sheet says; mend the sheet where it does not."
                )

    def computing(self, precision: str) -> float:
        """Share of the rate of this precision that matrix products reach."""
        return self.compute.get(precision, COMPUTE[precision])


class Overheads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds that no rate explains.

    Of each layer (launches, norms, the fixed part of every kernel), of each
    collective between devices, of each sequence in a step, of each step, and
    of each request outside of steps.
    """

    layer_s: float = 45e-6
    collective_s: float = 5e-6
    sequence_s: float = 10e-6
    step_s: float = 1e-3
    request_s: float = 0.02

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 0:
                raise ValueError(f"the overhead {name}={getattr(self, name)} must not be negative.")


class MeasuredStepTime:
    """A step time in counts alone, for a server whose model or hardware is unknown."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.request_s = costs.request

    def work(self, load: StepLoad) -> Work:
        """The step's counts."""
        tokens = load.prefill_tokens + load.decodes
        context, pairs = load.decode_context, load.prefill_pairs
        return Work(1, tokens, 0, 0, context, 0, pairs, 0, 0, 0, load.decodes, load.logits)

    def seconds(self, load: StepLoad) -> float:
        """Seconds of one step."""
        c = self.costs
        tokens = load.prefill_tokens + load.decodes
        return float(
            _longer(c.read, c.compute * tokens)
            + c.kv * load.decode_context
            + c.attention * load.prefill_pairs
            + c.sequence * load.decodes
            + c.logits * load.logits
            + c.step
        )
