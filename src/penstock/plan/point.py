"""One operating point of a replica, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from penstock.plan.limits import largest_batch
from penstock.predict.ceilings import Ceiling, Mix, filled, mean_seconds, served
from penstock.predict.deployment import MEMORY_SHARE, Deployment
from penstock.predict.physical import PhysicalStepTime


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


def outcome(point: Point) -> Outcome:
    """What a point gives with usual step times."""
    step = usual(point.deployment)
    return _outcome(point, lambda mix: mean_seconds(step, mix))


def best_outcome(point: Point) -> Outcome:
    """What a point would give at the hardware's ceiling."""
    return _outcome(point, Ceiling(point.deployment).seconds)


def _outcome(point: Point, seconds_of: Callable[[Mix], float]) -> Outcome:
    gained = accepted(point.acceptance, point.drafted)
    lengths = (point.running, point.prompt, point.output)
    seconds = seconds_of(served(*lengths, point.drafted, gained))
    if point.drafted:
        # A drafting head is about one layer of the model (EAGLE, Li et al. 2024), run once a token.
        seconds += point.drafted * seconds_of(served(*lengths)) / point.deployment.model.depth
    tokens_per_s = point.running * gained / seconds
    return Outcome(
        running=point.running,
        tokens_per_s=tokens_per_s,
        user_tokens_per_s=gained / seconds,
        e2e_s=point.requests * point.output / tokens_per_s,  # Little's law
    )


def accepted(acceptance: float, drafted: int) -> float:
    """Tokens a step yields in the mean (Leviathan et al. 2023): (1 - a^(k+1)) / (1 - a)."""
    return sum(acceptance**i for i in range(drafted + 1))
