"""The physical limit of one operating point, in the shape a run's summary holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from penstock.predict import roofline
from penstock.predict.hardware import Hardware


def limit_for(
    facts: Mapping[str, Any] | None,
    load: Mapping[str, Any],
    mean_context_tokens: float,
    input_per_output: float,
    hardware: Hardware | None,
) -> dict[str, Any]:
    """Ceilings for one operating point: tokens/s, what binds, and how it was obtained.

    `facts` are the engine's `ModelFacts` as a dict, `load` the point's load,
    `mean_context_tokens` the tokens before the output token in the middle of
    an answer (prompt + half the output), `input_per_output` the prompt tokens
    *computed* per output token (those found in a cache cost nothing).
    `user_speed` is that of one sequence alone; `output_throughput` that of
    `concurrency` sequences with their prompts' prefill, or, in an open loop,
    of as many as the KV pool holds. `fraction` is None: the summary fills it
    once there is a figure. Without facts or hardware nothing can be said, and
    `basis` says why.
    """
    if facts is None:
        return _unknown("the server does not tell its model's size")
    if hardware is None:
        return _unknown("the target runs on hardware that was not measured")
    if not str(facts["device"]).startswith(hardware.device):
        return _unknown(f"the model runs on {facts['device']}, measured was {hardware.device}")

    precision = str(facts["compute"])
    peak = hardware.peak_flops.get(precision)
    shape = roofline.Shape(
        weight_bytes=facts["weight_bytes"],
        flops_per_token=facts["flops_per_token"],
        head_flops=facts["head_flops"],
        attention_flops=facts["attention_flops"],
        kv_bytes_per_token=facts["kv_bytes_per_token"],
        prompt_attention_flops=facts.get("prompt_attention_flops"),
    )
    sequences, whose = _sequences(facts, load, mean_context_tokens)
    bound = partial(roofline.step_bound, bytes_per_s=hardware.read_bytes_per_s, flops_per_s=peak)
    alone = bound(shape, 1, mean_context_tokens, 0.0)
    together = bound(shape, sequences, mean_context_tokens, input_per_output)
    computing = f"at {peak / 1e9:,.0f} GFLOP/s" if peak else "at an unknown peak"
    return {
        "output_throughput": sequences / together.seconds,
        "user_speed": 1 / alone.seconds,
        "binds": together.binds,
        "fraction": None,
        "basis": (
            f"{shape.weight_bytes / 1e6:,.1f} MB of weights and {whose} of "
            f"{mean_context_tokens:,.0f} tokens read per step at "
            f"{hardware.read_bytes_per_s / 1e9:,.0f} GB/s (over "
            f"{hardware.working_set_bytes / 1e6:,.1f} MB), {input_per_output:.2f} prompt tokens "
            f"computed per output token {computing} in {precision}; "
            f"measured on {hardware.cores} CPU cores"
        ),
    }


def _sequences(
    facts: Mapping[str, Any], load: Mapping[str, Any], context: float
) -> tuple[float, str]:
    """How many sequences can decode at once under this load, and what they keep, in words."""
    if load.get("concurrency") is not None:
        count = int(load["concurrency"])
    else:
        count = max(1, int(facts["pages"] * facts["page_size"] / max(context, 1)))
    return count, "the KV of 1 sequence" if count == 1 else f"the KV of {count} sequences"


def _unknown(why: str) -> dict[str, Any]:
    return {
        "output_throughput": None,
        "user_speed": None,
        "binds": "unknown",
        "fraction": None,
        "basis": why,
    }
