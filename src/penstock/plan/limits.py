"""What one replica can do at most, and what it usually does: by phase and batch, and what binds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.predict.architecture import BYTES
from penstock.predict.ceilings import (
    Ceiling,
    Mix,
    alone,
    batches,
    decode_load,
    filled,
    mean_context,
    mean_seconds,
    prefill_load,
    served,
)
from penstock.predict.deployment import MEMORY_SHARE, RESERVE_BYTES, Deployment
from penstock.predict.physical import PhysicalStepTime

_ENOUGH = 8  # requests at once that make a way out worth naming


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of `batch` sequences: the ceiling, and what default efficiencies give.

    `tokens_per_s` counts all sequences (of a prefill, prompt tokens), and
    `user_tokens_per_s` one of them. `binds` is what the step waits for at the
    ceiling, `usually_binds` what takes most of it in practice, which may be
    overhead. `parts_s` are the seconds of each in practice, as they would be
    if nothing overlapped.
    """

    batch: int
    seconds: float
    tokens_per_s: float
    user_tokens_per_s: float
    binds: str
    usually_s: float
    usually_tokens_per_s: float
    usually_user_tokens_per_s: float
    usually_binds: str
    parts_s: dict[str, float]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica is allowed by its hardware, for requests of `prompt` and `output` tokens.

    Bytes are of the whole replica unless said; rates are tokens/s of it.
    `kv_tokens` is how many tokens the KV pool holds, `largest_batch` how many
    sequences of the mean context that are. `crossover` is the fewest decoding
    sequences at which memory no longer binds (None: it always does), and
    `prefill_crossover` the same in prompt tokens of a step. `decode` has
    sequences that only decode, `served` those whose prompts are computed too.
    """

    model: str
    parameters: int
    active_parameters: int
    device: str
    devices: int
    weights: str
    kv: str
    prompt: int
    output: int
    weight_bytes: float
    device_weight_bytes: float
    memory_bytes: float
    read_bytes_per_s: float
    kv_bytes_per_token: float
    kv_bytes_per_sequence: float
    kv_tokens: float
    largest_batch: int
    crossover: int | None
    prefill_crossover: int | None
    prefill: Step
    decode: tuple[Step, ...]
    served: tuple[Step, ...]
    notes: tuple[str, ...]


def limits(
    deployment: Deployment,
    prompt: int,
    output: int,
    at: Iterable[int] = (),
    *,
    share: float = MEMORY_SHARE,
    reserve: float = RESERVE_BYTES,
) -> Limits:
    """The limits of one replica, at these batches (1, 2, 4 ... to the largest if none are given).

    `share` of each device's memory may be used, `reserve` bytes of that for
    neither weights nor KV. Raises `ValueError` where the model does not fit,
    a request is longer than its context, or no request's KV fits beside it.
    """
    model = deployment.model
    check_lengths(deployment, prompt, output)
    most = largest_batch(deployment, prompt, output, share, reserve)
    wanted = sorted(set(at)) or list(batches(most))
    if beyond := [batch for batch in wanted if batch > most]:
        raise ValueError(
            f"batch={beyond[0]} of {mean_context(prompt, output):,.0f} tokens each does not fit: "
            f"the KV pool holds {most:,}. Lower it, shorten the requests, or take a smaller "
            "format, more devices or more memory."
        )
    ceiling = Ceiling(deployment)
    usual = PhysicalStepTime(filled(deployment)[0])
    context = mean_context(prompt, output)
    decoding = {batch: alone(decode_load(batch, context)) for batch in wanted}
    serving = {batch: served(batch, prompt, output) for batch in wanted}
    return Limits(
        model=model.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        device=deployment.device.title,
        devices=deployment.devices,
        weights=deployment.weights,
        kv=deployment.kv,
        prompt=prompt,
        output=output,
        weight_bytes=model.weight_bytes(deployment.weights),
        device_weight_bytes=deployment.device_weight_bytes,
        memory_bytes=deployment.device.memory_bytes * deployment.devices,
        read_bytes_per_s=deployment.device.read_bytes_per_s * deployment.devices,
        kv_bytes_per_token=model.kv_bytes_per_token(deployment.kv),
        kv_bytes_per_sequence=model.kv_bytes(context, deployment.kv),
        kv_tokens=deployment.kv_tokens(context, share, reserve),
        largest_batch=most,
        crossover=ceiling.crossover(context),
        prefill_crossover=ceiling.prefill_crossover(),
        prefill=_step(ceiling, usual, 1, alone(prefill_load(1, prompt)), prompt),
        decode=tuple(_step(ceiling, usual, b, mix, 1) for b, mix in decoding.items()),
        served=tuple(_step(ceiling, usual, b, mix, 1) for b, mix in serving.items()),
        notes=ceiling.gaps,
    )


def check_lengths(deployment: Deployment, prompt: int, output: int) -> None:
    """Raise `ValueError` for lengths below 1, or beyond the model's context."""
    for name, value in (("prompt", prompt), ("output", output)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1 token.")
    most = deployment.model.positions
    if prompt + output > most:
        raise ValueError(
            f"prompt={prompt} and output={output} need {prompt + output:,} tokens; "
            f"{deployment.model.name} holds {most:,}. Shorten one of them."
        )


def largest_batch(
    deployment: Deployment,
    prompt: int,
    output: int,
    share: float = MEMORY_SHARE,
    reserve: float = RESERVE_BYTES,
) -> int:
    """Sequences that the KV pool holds at once, each with the mean context of its life.

    Raises `ValueError`, naming what would fit, where the weights do not, or
    not even one sequence does beside them.
    """
    try:
        tokens = deployment.kv_tokens(mean_context(prompt, output), share, reserve)
    except ValueError as error:
        fits = _what_fits(deployment, prompt, output, share, reserve)
        raise ValueError(f"{error} {fits}") from None
    if tokens < prompt + output:
        raise ValueError(
            f"one request of prompt={prompt} and output={output} needs {prompt + output:,} tokens "
            f"of KV; beside the weights of {deployment.model.name} there is room for "
            f"{tokens:,.0f}. {_what_fits(deployment, prompt, output, share, reserve)}"
        )
    return int(tokens / mean_context(prompt, output))


def usual_parts(step: PhysicalStepTime, mix: Mix) -> dict[str, float]:
    """Mean seconds of each part of steps in practice, as they would be if nothing overlapped."""
    found = dict.fromkeys(("weights", "KV", "compute", "link", "overhead"), 0.0)
    costs = step.costs
    for share, load in mix:
        work = step.work(load)
        attended = work.decode_attention + work.attention
        found["weights"] += share * (work.read + work.experts_read) * costs.read
        found["KV"] += share * work.kv * costs.kv
        found["compute"] += share * (
            work.compute * costs.compute
            + work.experts_compute * costs.experts_compute
            + attended * costs.attention
        )
        found["link"] += share * (work.link * costs.link + work.collectives * costs.collective)
        found["overhead"] += share * (
            work.layers * costs.layer
            + work.sequences * costs.sequence
            + work.logits * costs.logits
            + costs.step
        )
    return found


def _step(ceiling: Ceiling, usual: PhysicalStepTime, batch: int, mix: Mix, tokens: int) -> Step:
    """The mean step of a mix, which yields so many tokens for each of `batch` sequences."""
    least, most, parts = ceiling.seconds(mix), mean_seconds(usual, mix), usual_parts(usual, mix)
    return Step(
        batch=batch,
        seconds=least,
        tokens_per_s=batch * tokens / least,
        user_tokens_per_s=tokens / least,
        binds=ceiling.binds(mix),
        usually_s=most,
        usually_tokens_per_s=batch * tokens / most,
        usually_user_tokens_per_s=tokens / most,
        usually_binds=max(parts, key=lambda name: parts[name]),
        parts_s=parts,
    )


def _what_fits(
    deployment: Deployment, prompt: int, output: int, share: float, reserve: float
) -> str:
    """Formats and numbers of devices, of those in use, that would hold it with eight requests."""
    wanted = _ENOUGH * (prompt + output)

    def holds(**changed: Any) -> bool:
        try:
            other = msgspec.structs.replace(deployment, **changed)
            return other.kv_tokens(prompt + output, share, reserve) >= wanted
        except ValueError:
            return False

    held = BYTES[deployment.weights]
    ways = [
        next((f"--tp {tp}" for tp in (2, 4, 8) if tp > deployment.tp and holds(tp=tp)), None),
        next(
            (f"--weights {w}" for w in ("fp8", "fp4") if BYTES[w] < held and holds(weights=w)), None
        ),
    ]
    found = " or ".join(filter(None, ways))
    if not found:
        return f"No --tp up to 8 or format of 4 bits holds it with {_ENOUGH} such requests."
    return f"It would fit with {found}."
