"""What one replica may be: hardware, formats, how many devices, how a step is filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from penstock.predict.architecture import Architecture
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import Device

MOST_DEVICES = 8  # of one replica's tensor-parallel group: the boards of one usual server
STEP_TOKENS = (512, 2048, 8192)  # prompt tokens that a step may take beside its decodes
SIXTEEN_BITS = "bf16"
PAGE = 16  # tokens of a KV page


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of replica, and whether prompts are computed on replicas of their own.

    At most `max_running` sequences decode at once, and a step computes
    `max_step_tokens` tokens at most. `kv_tokens` and `usd_per_hour` are of the
    whole replica.
    """

    deployment: Deployment
    kv_tokens: int
    max_running: int
    max_step_tokens: int
    usd_per_hour: float
    split: bool = False

    def transfer_s(self, prompt: float) -> float:
        """Seconds that a prompt's K and V take to another replica over the network, one way.

        All devices of the replica send their part at once. Raises `ValueError`
        where the sheet has no network.
        """
        d = self.deployment
        if d.device.network_bytes_per_s is None:
            raise ValueError(f"the sheet of {d.device.name} has no network_bytes_per_s")
        return d.model.kv_bytes(prompt, d.kv, d.tp) / d.device.network_bytes_per_s

    @property
    def name(self) -> str:
        """As a planner would say it."""
        d = self.deployment
        experts = f", experts on {d.ep}" if d.ep > 1 else ""
        return f"{d.devices} × {d.device.name}, {d.weights}{experts}{', split' * self.split}"


def deployments(
    model: Architecture, device: Device, weights: Sequence[str], context: float
) -> Iterator[Deployment]:
    """Every way to put the model on 1, 2, 4 ... devices of a server, a replica each.

    K and V are kept in 8 bits where the weights have 8 or fewer and the
    hardware computes in fp8. Formats without any known rate on the device are
    left out, and so is what cannot hold one sequence of `context` tokens.
    Experts are kept whole on each device, and cut over all of them.
    """
    for precision in weights:
        if device.arithmetic(precision) is None:
            continue
        kv = "fp8" if precision != SIXTEEN_BITS and "fp8" in device.flops else SIXTEEN_BITS
        tp = 1
        while tp <= min(MOST_DEVICES, device.link_devices):
            for ep in {1, tp} if model.is_moe else {1}:
                try:
                    made = Deployment(model, device, weights=precision, kv=kv, tp=tp, ep=ep)
                    if made.kv_tokens(context) >= context:
                        yield made
                except ValueError:
                    continue  # does not divide or does not fit; `why_none` tells which
            tp *= 2


def why_none(model: Architecture, device: Device, weights: Sequence[str]) -> str:
    """Why no deployment on this device is possible, in one sentence, with the numbers."""
    usable = [precision for precision in weights if device.arithmetic(precision)]
    if not usable:
        known = ", ".join(device.flops) or "none"
        return f"{device.title}: no rate is known for {', '.join(weights)} (its sheet has {known})"
    smallest = min(usable, key=model.weight_bytes)
    needs = model.weight_bytes(smallest) / 1e9
    most = min(MOST_DEVICES, device.link_devices)
    has = most * device.memory_bytes / 1e9
    return (
        f"{device.title}: {model.name} needs {needs:,.0f} GB in {smallest} beside its KV, "
        f"{most} devices hold {has:,.0f} GB"
    )
