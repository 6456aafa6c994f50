"""From a group of replicas as a file describes it to what the simulator runs."""

from __future__ import annotations

from pathlib import Path

from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.stepfile import Named, read
from penstock.predict.steptime import MeasuredStepTime, StepTime
from penstock.simulate.fleet import Group
from penstock.simulate.remember import Remembering
from penstock.simulate.replica import Machine
from penstock.simulate.speculation import Speculating


def machine(group: Group, step: StepTime | None = None) -> Machine:
    """The machine that the group's replicas are; `step` goes before what the group says.

    Raises `ValueError` for names that nobody knows, for a model that does not fit,
    and where step time or KV are left open.
    """
    found, kv_tokens = _found(group) if step is None else (step, None)
    if (kv_tokens := group.kv_tokens or kv_tokens) is None:
        raise ValueError(
            "how much KV a replica holds is not known; give its kv_tokens (a server's log says "
            "it: vLLM's number of KV blocks times their tokens)"
        )
    if group.speculation is not None:
        found = Speculating(found, group.speculation)
    pages = max(1, int(kv_tokens // group.page_tokens))
    return Machine(Remembering(found), group.scheduling(), pages, group.page_tokens)


def kv_bytes_per_token(group: Group) -> float:
    """Bytes of KV that a token's transfer takes; raises `ValueError` where nobody can say."""
    if group.kv_bytes_per_token is not None:
        return group.kv_bytes_per_token
    named = _named(group)
    if named is None:
        raise ValueError(
            "how many bytes a token's KV takes over the link is not known; give the prefill "
            "replicas' kv_bytes_per_token, or a model"
        )
    deployment = named.deployment()
    return deployment.model.kv_bytes_per_token(deployment.kv)


def own_kv_tokens(group: Group) -> int | None:
    """Tokens of KV that a replica holds by itself, where that is known.

    Raises `ValueError` as `machine` for what cannot be found.
    """
    if group.kv_tokens is not None:
        return group.kv_tokens
    tokens = _found(group)[1]
    return None if tokens is None else int(tokens)


def kept_bytes_per_token(group: Group, context: float) -> float | None:
    """Bytes that a token takes in all of a replica's memory, in sequences of `context` tokens.

    None where the model is not known. Copies on several devices count each time.
    """
    if group.kv_bytes_per_token is not None:
        return group.kv_bytes_per_token
    if (placed := _placed(group)) is None:
        return None
    return placed.tp * placed.model.kv_bytes(context, placed.kv, placed.tp) / context


def positions(group: Group) -> int | None:
    """Tokens of the longest context of the group's model, where that is known."""
    placed = _placed(group)
    return None if placed is None else placed.model.positions


def _placed(group: Group) -> Deployment | None:
    """The deployment that the group names, or the file of its step times."""
    named = _named(group)
    if named is None and group.steptime is not None:
        named = read(Path(group.steptime)).deployment
    return None if named is None else named.deployment()


def _found(group: Group) -> tuple[StepTime, float | None]:
    """The step time, and the KV pool's tokens where they follow from what is known."""
    if group.costs is not None:
        return MeasuredStepTime(group.costs), None
    if group.steptime is not None:
        file = read(Path(group.steptime))
        if file.pages is not None and file.page_size is not None:
            return file.steptime(), file.pages * file.page_size
        named = file.deployment
        tokens = named.deployment().kv_tokens(share=group.memory_share) if named else None
        return file.steptime(), tokens
    named = _named(group)
    if named is None:
        raise ValueError(
            "how long a step takes is not known; give a group of replicas model and device, a "
            "steptime file (penstock calibrate writes one), or costs"
        )
    deployment = named.deployment()
    return PhysicalStepTime(deployment), deployment.kv_tokens(share=group.memory_share)


def _named(group: Group) -> Named | None:
    if group.model is None or group.device is None:
        return None
    fields = ("model", "device", "weights", "kv", "tp", "pp", "ep", "dp")
    return Named(**{field: getattr(group, field) for field in fields})
