"""What each stage of a step costs: its time, its least work, and how near that is to the limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

from penstock.engine.kernels.linear import Linear
from penstock.engine.model.decoder import Decoder
from penstock.engine.model.layer import Layer
from penstock.engine.request import ModelFacts
from penstock.engine.watch import Key, Timed
from penstock.predict.hardware import Hardware
from penstock.predict.roofline import Binds, lower_bound


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The work a stage cannot do without, and how fast it was done.

    `bound_s` is the least time in which this machine could do it, `binds` what
    it would then wait for, and `share` the bound over the warm time: 1 is as
    fast as the machine allows. The rates are those of the warm time too.
    """

    flops: int
    bytes: int
    flops_per_s: float
    bytes_per_s: float
    bound_s: float
    binds: Binds
    share: float


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one stage: in the first pass, and the median of the warm ones."""

    name: str
    layer: int | None = None  # None for a sum over all layers, and for what is in none
    first_s: float
    warm_s: float
    cost: Cost | None = None  # None where a stage is no arithmetic


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the engine, from the scheduler's plan to the token.

    `stages` are in order and add up to `total`; "layers" among them is the sum
    of `parts`, the attention and the feed-forward of all layers, which are the
    sums over `layers`.
    """

    name: Literal["prefill", "decode"]
    tokens: int  # taken through the model
    context: int  # tokens the last of them attends to, itself included
    total: Stage
    stages: list[Stage]
    parts: list[Stage]
    layers: list[Stage]


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage cannot do without."""

    flops: int
    bytes: int


def work(decoder: Decoder, tokens: int, context: int) -> dict[Key, Work]:
    """The work of each stage when the last `tokens` of `context` go through, one row of logits out.

    Counted are products with weights and of attention, 2 operations each
    multiplication; bytes of weights read, of K and V written and read once, of
    embedding rows and of logits. Activations are left out: they stay in cache.
    """
    config, size = decoder.config, decoder.dtype.itemsize
    found: dict[Key, Work] = {("embed", None): Work(0, tokens * config.hidden_size * size)}
    for index, layer in enumerate(decoder.layers):
        # Past the last attention, or the full layers, the last token alone goes on.
        attending = 1 if layer.shape.deep else tokens
        going_on = attending if layer is not decoder.layers[-1] else 1
        found["attention", index] = _attention(
            layer, tokens, context, size, attending=attending, going_on=going_on
        )
        found["feed-forward", index] = _products([layer.gate_up, layer.down], going_on)
    found["head", None] = _products([decoder.head], 1)
    found["sample", None] = Work(0, config.vocab_size * 4)  # logits are fp32
    return found


def _attention(
    layer: Layer, tokens: int, context: int, size: int, *, attending: int, going_on: int
) -> Work:
    shape = layer.shape
    window = shape.window or context
    attended = sum(min(slot + 1, window) for slot in range(context - attending, context))
    products, last = _products([layer.qkv], attending), _products([layer.output], going_on)
    apart = _products([] if layer.kv is None else [layer.kv], tokens)
    # Slots read once: those the first row sees, and the rows' own.
    slots = min(context, window + attending - 1)
    written = tokens if shape.shares_kv is None else 0
    return Work(
        products.flops + apart.flops + last.flops + 4 * shape.heads * shape.head_dim * attended,
        products.bytes
        + apart.bytes
        + last.bytes
        + (slots + written) * 2 * shape.kv_heads * shape.head_dim * size,
    )


def _products(matrices: list[Linear], tokens: int) -> Work:
    flops = 2 * tokens * sum(matrix.outputs * matrix.inputs for matrix in matrices)
    return Work(flops, sum(matrix.nbytes for matrix in matrices))


def step(
    name: Literal["prefill", "decode"],
    passes: Sequence[Timed],
    decoder: Decoder,
    about: ModelFacts,
    machine: Hardware,
    *,
    tokens: int,
    context: int,
) -> Step:
    """Put together what the passes through one kind of step took; the first of them is cold."""
    (_, cold), *warm = passes
    usual = {key: median(stages[key] for _, stages in warm) for key in cold}
    least = work(decoder, tokens, context)

    def merged(name: str, keys: Iterable[Key], layer: int | None = None) -> Stage:
        keys = list(keys)
        seconds = sum(usual[key] for key in keys)
        done = [least[key] for key in keys if key in least]
        return Stage(
            name=name,
            layer=layer,
            first_s=sum(cold[key] for key in keys),
            warm_s=seconds,
            cost=_cost(done, seconds, about, machine) if done else None,
        )

    inner = [key for key in cold if key[1] is not None]
    # One stage for all layers, where the first of them stands.
    outer = {key if key[1] is None else inner[0]: None for key in cold}
    return Step(
        name=name,
        tokens=tokens,
        context=context,
        total=merged("step", cold),
        stages=[
            merged("layers", inner) if key in inner else merged(key[0], [key]) for key in outer
        ],
        parts=[
            merged(part, (key for key in inner if key[0] == part))
            for part in ("attention", "feed-forward")
        ],
        layers=[merged(key[0], [key], key[1]) for key in inner],
    )


def _cost(done: Sequence[Work], seconds: float, about: ModelFacts, machine: Hardware) -> Cost:
    flops, nbytes = sum(each.flops for each in done), sum(each.bytes for each in done)
    peak = machine.peak_flops.get(about.compute)
    bound = lower_bound(nbytes, flops, machine.read_bytes_per_s, peak)
    return Cost(
        flops=flops,
        bytes=nbytes,
        flops_per_s=flops / seconds,
        bytes_per_s=nbytes / seconds,
        bound_s=bound.seconds,
        binds=bound.binds,
        share=bound.seconds / seconds,
    )
