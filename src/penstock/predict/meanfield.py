"""Where a closed loop settles, by arithmetic: no queue is simulated, only means are balanced.

So many requests are always under way, each of one prompt and one output length, as a
benchmark at a fixed concurrency sends them. A microsecond of arithmetic stands in for a
simulation that walks every step; `simulate` does that where arrivals, lengths or sharing matter.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec

from penstock.predict.physical import PhysicalStepTime
from penstock.predict.steptime import StepLoad, StepTime

Order = Literal["mixed", "prompts first"]
# Requests of equal lengths that started together stay near each other: who ends finds others
# being computed, then shares its step with one more. Twice two prompts, as was seen at
# concurrencies from 8 to 128 alike (docs/step_time.md).
TOGETHER = 2


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a closed loop gives in the mean.

    `running` of the requests are in the engine, the others wait for a seat
    or for pages. `binds` says what they wait for ("seats", "KV capacity"), or
    else which term a decoding step mostly waits for, or which half of a split.
    """

    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    running: float
    binds: str


def operating_point(
    step: StepTime,
    *,
    prompt: float,
    output: float,
    concurrency: float,
    max_step_tokens: int = 8192,
    max_running: int = 256,
    kv_tokens: float | None = None,
    groups: int = 1,
    order: Order = "mixed",
    rounds: float = math.inf,
    in_step: bool = False,
) -> OperatingPoint:
    """An aggregated replica with continuous batching and chunked prefill.

    `kv_tokens` is the replica's pool (None: never short). `groups` are the
    deployment's `dp`; `max_step_tokens` and `max_running` hold for each.
    `order` says whether chunks ride along with decodes ("mixed": vLLM,
    TensorRT-LLM, our engine) or whether decodes pause until all prompts are
    computed ("prompts first": SGLang's default). All requests start together,
    and each client sends `rounds` one after the other: the first wave, in
    which everyone queues, counts one part in so many. `in_step` says that all
    lengths are equal, so that requests stay together ever after. Raises
    `ValueError` where not even one request fits.
    """
    _check(prompt, output, concurrency)
    running, short = _seats(prompt, output, concurrency, max_running * groups, kv_tokens)
    loop = _Loop(step, prompt, output, running / groups, max_step_tokens, groups)
    if in_step and order == "prompts first":
        ttft, tpot = _in_waves(loop)
    else:
        ttft, tpot = _mixed(loop, 1 / rounds, in_step)
    cycle = ttft + tpot * (output - 1)
    # Those without a seat wait for one: Little's law over the seats.
    ttft += (concurrency - running) / running * cycle + step.request_s
    return OperatingPoint(
        ttft_s=ttft,
        tpot_s=tpot,
        output_tokens_per_s=concurrency * output / (ttft + tpot * (output - 1)),
        running=running,
        binds=short or _largest(step, _load(prompt, output, running)),
    )


def _check(prompt: float, output: float, concurrency: float) -> None:
    for name, value in (("prompt", prompt), ("output", output), ("concurrency", concurrency)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def _seats(
    prompt: float, output: float, concurrency: float, max_running: int, kv_tokens: float | None
) -> tuple[float, str | None]:
    """How many requests run at once, and what keeps the others out."""
    running: float = min(concurrency, max_running)
    short = "seats" if running < concurrency else None
    if kv_tokens is not None:
        # Sequences end at different times, so in the mean each holds half its output.
        room = kv_tokens / (prompt + output / 2)
        if kv_tokens < prompt + output:
            raise ValueError(
                f"a prompt of {prompt:,.0f} and {output:,.0f} tokens of output need "
                f"{prompt + output:,.0f} tokens of KV, the pool holds {kv_tokens:,.0f}: "
                "take more devices, a smaller KV format or shorter requests."
            )
        if room < running:
            running, short = max(room, 1.0), "KV capacity"
    return running, short


class _Loop(NamedTuple):
    """A closed loop on one of several equal groups."""

    step: StepTime
    prompt: float
    output: float
    running: float
    budget: int
    groups: int


def _mixed(loop: _Loop, first_wave: float, in_step: bool) -> tuple[float, float]:
    """Chunks ride along with decodes: TTFT and TPOT of those with a seat."""
    step, prompt, output, running, budget, groups = loop
    chunk = min(prompt, max(budget - running, 1.0))
    own = prompt / chunk  # steps that compute one prompt
    decodes = output - 1
    chunks = running * own  # steps with a chunk, of the steps in which everyone is served once
    steps = max(chunks, decodes + own)
    decoding = running * decodes / steps
    # Of the steps in which a request decodes, so many bring a chunk of somebody else's.
    met = min(1.0, (chunks - own) / (steps - own)) if steps > own else 0.0
    load = _load(prompt, output, decoding * groups)
    alone, beside = step.seconds(load), step.seconds(_with(load, chunk * groups, prompt))
    # Groups step together, so schedulers have them compute prompts in the same steps.
    tpot = (1 - met) * alone + met * beside
    everyone = (running + 1) / 2  # prompts until one's own is done, if all start at once
    # Deterministic service, random arrivals: 1 + rho / (2 (1 - rho)), Pollaczek-Khinchine.
    prompts = 1 + met / (2 * max(1 - met, 1e-9))
    prompts = min(2.0 * TOGETHER if in_step else prompts, everyone)
    prompts += first_wave * (everyone - prompts)
    prompts = max(prompts, 1 + (steps - decodes - own) / own)  # where chunks fill every step
    return tpot / 2 + prompts * own * beside, tpot


def _in_waves(loop: _Loop) -> tuple[float, float]:
    """Decodes pause while prompts are computed, and all requests have the same lengths.

    All that start together end together, so the whole loop is in step:
    everyone's prompts, then everyone's decodes. Batches of prompts finish one
    after the other, and the early ones wait for the last.
    """
    step, prompt, output, running, budget, groups = loop
    batches = max(1.0, running * prompt / budget)
    tokens = min(running * prompt, budget)
    batch = step.seconds(_with(StepLoad(), tokens * groups, prompt))
    first = (batches + 1) / 2 * batch
    decoding = step.seconds(_load(prompt, output, running * groups))
    waited = (batches * batch - first) / max(output - 1, 1)
    return first, decoding + waited


def _largest(step: StepTime, load: StepLoad) -> str:
    """The largest term of a step, where the step time tells its terms."""
    if not isinstance(step, PhysicalStepTime):
        return "steps"
    found = step.terms(load)
    return max(found, key=lambda name: found[name])


def _load(prompt: float, output: float, decodes: float) -> StepLoad:
    """A step of decodes alone, each in the middle of its output."""
    context = prompt + output / 2
    return StepLoad(0, 0, decodes, decodes * context, decodes)


def _with(load: StepLoad, tokens: float, prompt: float) -> StepLoad:
    """The same step with so many tokens of prompts, each of which sees half of its prompt."""
    ends = tokens / prompt
    return StepLoad(
        tokens, tokens * prompt / 2, load.decodes, load.decode_context, load.logits + ends
    )


def split_point(
    prefill: StepTime,
    decode: StepTime,
    *,
    prefills: int,
    decodes: int,
    prompt: float,
    output: float,
    concurrency: float,
    max_step_tokens: int = 8192,
    max_running: int = 256,
    kv_tokens: float | None = None,
    prefill_groups: int = 1,
    transfer_s: float = 0.0,
    rounds: float = math.inf,
) -> OperatingPoint:
    """`prefills` replicas that compute prompts and `decodes` that go on from there.

    `transfer_s` is what handing one prompt's K and V over takes;
    `max_running` and `kv_tokens` are those of one decode replica,
    `prefill_groups` the `dp` of a prefill one: a prompt is computed by one of
    them. Prompts queue as for deterministic service with random arrivals,
    t (1 + rho / (2 (1 - rho))) (Pollaczek-Khinchine); of `rounds`, the first is
    one in which all come at once. Raises `ValueError` as `operating_point`.
    """
    _check(prompt, output, concurrency)
    most, short = _seats(prompt, output, concurrency / decodes, max_running, kv_tokens)
    chunk = min(prompt, max_step_tokens)
    servers = prefills * prefill_groups
    served = prompt / chunk * prefill.seconds(_with(StepLoad(), chunk * prefill_groups, prompt))
    everyone = (concurrency / servers + 1) / 2  # prompts until one's own is done, if all come

    def settle(running: float) -> tuple[float, float, float]:
        """TTFT, TPOT and requests/s with so many decoding on each replica."""
        tpot = decode.seconds(_load(prompt, output, running))
        rate = decodes * running / (max(output - 1, 1) * tpot)
        busy = min(rate * served / servers, 1 - 1e-9)
        prompts = 1 + busy / (2 * (1 - busy))
        prompts += max(0.0, everyone - prompts) / rounds
        return served * prompts + transfer_s, tpot, rate

    def under_way(running: float) -> float:
        ttft, _, rate = settle(running)
        return decodes * running + rate * ttft

    low, high = 0.0, most
    for _ in range(60):  # more requests under way with every one more that decodes
        middle = (low + high) / 2
        low, high = (low, middle) if under_way(middle) > concurrency else (middle, high)
    running = max(high, 1e-9)
    ttft, tpot, rate = settle(running)
    # Whoever finds no seat waits before its prompt is computed.
    ttft = max(ttft, concurrency / rate - tpot * (output - 1)) + prefill.request_s
    busy = rate * served / servers
    binds = short if short and running > 0.99 * most else "prefill" if busy > 0.9 else "decode"
    return OperatingPoint(
        ttft_s=ttft,
        tpot_s=tpot,
        output_tokens_per_s=concurrency * output / (ttft + tpot * (output - 1)),
        running=running * decodes,
        binds=binds,
    )
