"""What the hardware allows: the least time of a step, by phase and batch.

The same work as `PhysicalStepTime` reckons with, at the sheet's full rates,
with no overhead and everything overlapping at will. Nothing real is faster,
short of doing other work: so each throughput here is a true ceiling (of one
replica, without speculation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.steptime import StepLoad, StepTime, chunk_pairs

Binds = Literal["weights", "KV", "compute", "link"]
_MOST = 1 << 20  # beyond so many sequences in one step nobody asks what binds


# Steps of several kinds, each with the share of all steps that are so.
Mix = tuple[tuple[float, StepLoad], ...]


class Ceiling:
    """The least mean time of steps on one replica.

    Attention's arithmetic is reckoned at the 16-bit rate. Experts are touched
    as uniform routing would; sequences that are alike touch fewer, and may be
    faster. A rate that the sheet does not have cannot bind; `gaps` says which
    these are.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, gaps = filled(deployment)
        self.gaps = tuple(gaps)
        self._work = PhysicalStepTime(self.deployment).work

    def parts(self, mix: Mix) -> dict[Binds, float]:
        """Seconds that each resource needs in the mean for steps of this mix."""
        found: dict[Binds, float] = dict.fromkeys(("weights", "KV", "compute", "link"), 0.0)
        for share, load in mix:
            work = self._work(load)
            attended = work.decode_attention + work.attention
            found["weights"] += share * (work.read + work.experts_read)
            found["KV"] += share * work.kv
            found["compute"] += share * (work.compute + work.experts_compute + attended)
            found["link"] += share * work.link
        return found

    def seconds(self, mix: Mix) -> float:
        """Least mean seconds of steps of this mix.

        Weights and KV come over the same wires one after the other; memory,
        arithmetic and links overlap, over the bounds of steps too, since
        chunks of prompts can be laid where arithmetic is idle.
        """
        return max(self._needs(mix).values())

    def binds(self, mix: Mix) -> Binds:
        """What the steps wait for: of memory, the larger of weights and KV."""
        needs = self._needs(mix)
        return max(needs, key=lambda name: needs[name])

    def _needs(self, mix: Mix) -> dict[Binds, float]:
        parts = self.parts(mix)
        memory: Binds = "weights" if parts["weights"] >= parts["KV"] else "KV"
        return {
            memory: parts["weights"] + parts["KV"],
            "compute": parts["compute"],
            "link": parts["link"],
        }

    def crossover(self, context: float) -> int | None:
        """Fewest sequences at which decoding is no longer bound by memory.

        None where it always is: with long contexts reading a sequence's KV
        takes longer than its arithmetic, however many there are.
        """
        return self._first(lambda batch: decode_load(batch, context))

    def prefill_crossover(self) -> int | None:
        """Fewest prompt tokens in one step that are not bound by reading the weights."""
        return self._first(lambda tokens: StepLoad(prefill_tokens=tokens, logits=1))

    def _first(self, load: Callable[[int], StepLoad]) -> int | None:
        """Fewest of what `load` takes at which memory does not bind; None if it does to the end."""

        def free(count: int) -> bool:
            return self.binds(alone(load(count))) in ("compute", "link")

        high = 1
        while not free(high):
            high *= 2
            if high > _MOST:
                return None
        low = high // 2  # memory binds here (or there is nothing here)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if free(middle) else (middle, high)
        return high


def alone(load: StepLoad) -> Mix:
    """Steps that all have this load."""
    return ((1.0, load),)


def decode_load(batch: float, context: float) -> StepLoad:
    """A step in which `batch` sequences after `context` tokens each yield one."""
    return StepLoad(decodes=batch, decode_context=batch * context, logits=batch)


def prefill_load(batch: float, prompt: int) -> StepLoad:
    """A step that computes `batch` prompts whole."""
    return StepLoad(
        prefill_tokens=batch * prompt,
        prefill_pairs=batch * chunk_pairs(0, prompt),
        logits=batch,
    )


def served(batch: float, prompt: int, output: int, drafted: int = 0, gained: float = 1.0) -> Mix:
    """The steps of a server in which `batch` sequences decode and new prompts take their turn.

    Each step yields `gained` tokens a sequence (more than 1 only where
    `drafted` tokens are checked), and every `output` of them bring a prompt,
    which is computed whole in one step: so it touches each expert once.
    """
    decoding = verify_load(batch, mean_context(prompt, output), drafted)
    arriving = batch * gained / output  # prompts per step
    # A prompt's own logits yield one of its request's output tokens: no row is added.
    together = max(1.0, arriving)
    with_prompts = msgspec.structs.replace(
        decoding,
        prefill_tokens=decoding.prefill_tokens + together * prompt,
        prefill_pairs=decoding.prefill_pairs + together * chunk_pairs(0, prompt),
    )
    share = min(1.0, arriving)
    return ((1 - share, decoding), (share, with_prompts))


def mean_seconds(step: StepTime, mix: Mix) -> float:
    """Mean seconds of steps of this mix."""
    return sum(share * step.seconds(load) for share, load in mix)


def verify_load(batch: float, context: float, drafted: int) -> StepLoad:
    """A step that checks `drafted` tokens of each of `batch` sequences, and yields one more.

    K and V are read once for them all, the arithmetic is done for each.
    """
    extra = batch * drafted
    return StepLoad(
        prefill_tokens=extra,
        prefill_pairs=extra * context,
        decodes=batch,
        decode_context=batch * context,
        logits=batch + extra,
    )


def mean_context(prompt: float, output: float) -> float:
    """Tokens before the token in the middle of an answer."""
    return prompt + output / 2


def batches(most: int) -> Iterator[int]:
    """1, 2, 4 ... and `most` itself."""
    yield from (1 << i for i in range(max(0, most - 1).bit_length()))
    yield most


def filled(deployment: Deployment) -> tuple[Deployment, list[str]]:
    """The deployment with a rate without limit where its sheet has none, and a word on each."""
    device, gaps = deployment.device, []
    if device.arithmetic("bf16") is None:
        gaps.append(
            f"no rate of operations is published for {device.title}, so compute cannot bind here"
        )
        device = msgspec.structs.replace(device, flops={**device.flops, "bf16": math.inf})
    beyond = deployment.devices > device.link_devices
    field = "network_bytes_per_s" if beyond else "link_bytes_per_s"
    if deployment.devices > 1 and getattr(device, field) is None:
        gaps.append(
            f"{field} of {device.title} is not published, so nothing here waits for the "
            f"exchange between {deployment.devices} of them"
        )
        device = msgspec.structs.replace(device, **{field: math.inf})
    return msgspec.structs.replace(deployment, device=device), gaps
