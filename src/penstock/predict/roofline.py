"""How fast a step can be at best: the roofline (Williams, Waterman, Patterson 2009) of decoding.

A step cannot end before its bytes have been read, nor before its operations
have been done. Everything left out here (activations, writes, norms,
sampling, the host) only adds time, so each result is a true ceiling.
Plain arithmetic in bytes, operations and seconds; nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Binds = Literal["memory bandwidth", "compute"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What one model costs per step and per token.

    `flops_per_token` is 2 x the weights multiplied for one output token;
    `head_flops` of them come after the last attention, where prompt tokens
    end (earlier in a SwiftKV model). `attention_flops` is the cost per token
    and per token of its context: 4 x layers x query heads x head size (one
    multiply and one add, for QK and for PV); of a prompt's token it is
    `prompt_attention_flops`, where that is less.
    """

    weight_bytes: int
    flops_per_token: int
    head_flops: int
    attention_flops: int
    kv_bytes_per_token: int
    prompt_attention_flops: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time something can take, and what it waits for meanwhile."""

    seconds: float
    binds: Binds


def step_bytes(shape: Shape, sequences: float, context: float) -> float:
    """Bytes one decode step reads: the weights once, then every sequence's K and V."""
    return shape.weight_bytes + sequences * context * shape.kv_bytes_per_token


def decode_flops(shape: Shape, context: float) -> float:
    """Operations of one output token after `context` tokens."""
    return shape.flops_per_token + context * shape.attention_flops


def prefill_flops(shape: Shape, prompt: float) -> float:
    """Operations per token of a prompt of `prompt` tokens, which see half of it on average."""
    attention = shape.prompt_attention_flops
    if attention is None:
        attention = shape.attention_flops
    return shape.flops_per_token - shape.head_flops + prompt / 2 * attention


def lower_bound(
    nbytes: float, flops: float, bytes_per_s: float, flops_per_s: float | None
) -> Bound:
    """Least time in which `nbytes` can be read and `flops` done, the two overlapping at will.

    `flops_per_s=None` means that the compute peak is unknown: then only the
    reading counts, which still bounds the time from below.
    """
    reading = nbytes / bytes_per_s
    computing = flops / flops_per_s if flops_per_s else 0.0
    if computing > reading:
        return Bound(computing, "compute")
    return Bound(reading, "memory bandwidth")


def step_bound(
    shape: Shape,
    sequences: float,
    context: float,
    input_per_output: float,
    *,
    bytes_per_s: float,
    flops_per_s: float | None,
) -> Bound:
    """Least time of a step that yields one token for each of `sequences`.

    In a served system every output token brings `input_per_output` tokens of
    prompt to be computed, so over many steps each carries `sequences` output
    and `sequences * input_per_output` prompt tokens. Where compute binds, the
    throughput is therefore at most
    1 / (cost per output token + input/output x cost per prompt token).
    The prompts read the weights in the same pass, so no bytes are added.
    """
    # With prompt = r x output and a mean decode context of prompt + output / 2,
    # the prompt is context x r / (r + 1/2). Lengths that spread cost more than
    # their mean (attention is quadratic), so the mean keeps this a ceiling.
    prompt = context * input_per_output / (input_per_output + 0.5)
    flops = decode_flops(shape, context) + input_per_output * prefill_flops(shape, prompt)
    return lower_bound(
        step_bytes(shape, sequences, context), sequences * flops, bytes_per_s, flops_per_s
    )
