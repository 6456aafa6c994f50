"""One operating point of a replica, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from penstock.plan.limits import largest_batch
from penstock.predict.ceilings import filled, mean_context, verify_load
from penstock.predict.deployment import MEMORY_SHARE, Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.steptime import StepLoad, StepTime, chunk_pairs


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point: `requests` in flight, each of `prompt` and `output` tokens.

    Each step drafts `drafted` tokens a sequence, each of which is accepted
    with probability `acceptance` as long as all before it were.
    """

    deployment: Deployment
    prompt: int
    output: int
    requests: int
    drafted: int = 0
    acceptance: float = 0.0
    share: float = MEMORY_SHARE  # of each device's memory

    @property
    def held(self) -> int:
        """Requests that the KV pool holds at once."""
        return largest_batch(self.deployment, self.prompt, self.output, self.share)

    @property
    def running(self) -> int:
        """Requests that run; the others wait."""
        return min(self.requests, self.held)


class Outcome(msgspec.Struct, frozen=True):
    """What a point gives: tokens/s of all and of one user, and seconds from arrival to the end."""

    running: int
    tokens_per_s: float
    user_tokens_per_s: float
    e2e_s: float


def usual(deployment: Deployment) -> PhysicalStepTime:
    """The step time of default efficiencies; a rate nobody published does not bind."""
    return PhysicalStepTime(filled(deployment)[0])


def outcome(point: Point, step_time: Callable[[Deployment], StepTime]) -> Outcome:
    """What a point gives with these step times."""
    step, running = step_time(point.deployment), point.running
    gained = accepted(point.acceptance, point.drafted)
    seconds = step.seconds(_load(point, running, gained))
    if point.drafted:
        # A drafting head is about one layer of the model (EAGLE, Li et al. 2024), run once a token.
        plain = step.seconds(_load(replace(point, drafted=0), running, 1.0))
        seconds += point.drafted * plain / point.deployment.model.depth
    tokens_per_s = running * gained / seconds
    return Outcome(
        running=running,
        tokens_per_s=tokens_per_s,
        user_tokens_per_s=gained / seconds,
        e2e_s=point.requests * point.output / tokens_per_s,  # Little's law
    )


def accepted(acceptance: float, drafted: int) -> float:
    """Tokens a step yields in the mean (Leviathan et al. 2023): (1 - a^(k+1)) / (1 - a)."""
    return sum(acceptance**i for i in range(drafted + 1))


def _load(point: Point, running: int, gained: float) -> StepLoad:
    """The mean step: every sequence's next tokens, and the prompts of those that come in."""
    context = mean_context(point.prompt, point.output)
    decoding = verify_load(running, context, point.drafted)
    prompts = running * gained / point.output
    return StepLoad(
        prefill_tokens=decoding.prefill_tokens + prompts * point.prompt,
        prefill_pairs=decoding.prefill_pairs + prompts * chunk_pairs(0, point.prompt),
        decodes=decoding.decodes,
        decode_context=decoding.decode_context,
        logits=decoding.logits,
    )
