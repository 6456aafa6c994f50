"""When not to split, quantize or speculate, and what would change the answer, in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from penstock.plan.options import Option
from penstock.plan.question import Question
from penstock.plan.search import Sized
from penstock.predict.ceilings import mean_context, verify_load
from penstock.predict.physical import PhysicalStepTime

DRAFTED, ACCEPTED = 3, 0.7  # tokens drafted a step, chance that each is accepted: usual figures
WORTH = 1.1  # a smaller gain is not worth a risk of quality, or a second model
_FACTORS = np.geomspace(1, 30, 120)  # of the demand, at which the cheapest fleet is looked for


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One question about a plan, the answer, and why."""

    topic: Literal["split", "quantize", "speculate"]
    do: bool
    says: str


def split(settled: Sequence[Sized], found: Sequence[Option], question: Question) -> Advice:
    """Whether prompts should have replicas of their own."""
    when = "it pays where prompts are long, the pace is tight, and both kinds can be kept full"
    if not question.split:
        return Advice(topic="split", do=False, says="Not looked at, as asked.")
    best = settled[0]
    if best.prefill:
        cost = _cheapest(settled, found, split=False)
        beside = f"{cost} with whole ones" if cost else "no fleet of whole ones keeps the limits"
        return Advice(
            topic="split",
            do=True,
            says=(
                f"Split: {best.prefill} replicas for prompts and {best.replicas} for answers cost "
                f"${best.usd_per_hour:,.2f} an hour, {beside}."
            ),
        )
    cost = _cheapest(settled, found, split=True)
    if cost is None:
        says = f"Do not split: no fleet with prompts apart keeps the limits; {when}."
    else:
        says = (
            f"Do not split: an hour of the cheapest fleet with prompts on replicas of their own "
            f"costs {cost}, of this one ${best.usd_per_hour:,.2f}; {when}."
        )
    return Advice(topic="split", do=False, says=says)


def _cheapest(settled: Sequence[Sized], found: Sequence[Option], *, split: bool) -> str | None:
    """The least cost of an hour, settled where it was, else by the estimate; None if none holds."""
    sure = [sized.usd_per_hour for sized in settled if sized.option.candidate.split == split]
    if sure:
        return f"${min(sure):,.2f}"
    likely = [option.usd_per_hour for option in found if option.candidate.split == split]
    return f"${min(likely):,.2f} by the estimate" if likely else None


def quantize(best: Sized, found: Sequence[Option], question: Question) -> Advice:
    """Whether the weights should have fewer bits than they were published with."""
    published, used = question.model.weights, best.option.candidate.deployment.weights
    costs: dict[str, float] = {}
    for option in found:
        weights = option.candidate.deployment.weights
        costs[weights] = min(costs.get(weights, math.inf), option.usd_per_hour)
    narrow = {weights: usd for weights, usd in costs.items() if weights != published}
    if used != published:
        saved = 1 - best.usd_per_hour / costs[published] if published in costs else 1.0
        beside = (
            f"{published}, as published, costs ${costs[published]:,.2f} by the estimate"
            if published in costs
            else f"in {published}, as published, no fleet keeps the limits"
        )
        figures = f"{used} costs ${best.usd_per_hour:,.2f} an hour, {beside}"
        says = (
            f"Hardly worth quantizing: {figures}; {saved:.0%} is little for a risk of quality."
            if saved < WORTH - 1
            else f"Quantize: {figures}. Measure what it costs in quality first (`penstock bench "
            "--tasks`): this plan knows time and money."
        )
        return Advice(topic="quantize", do=saved >= WORTH - 1, says=says)
    if not narrow:
        says = "Do not quantize: no smaller format was looked at that keeps the limits here."
    else:
        cheapest = min(narrow, key=lambda weights: narrow[weights])
        says = (
            f"Do not quantize: {cheapest} would cost ${narrow[cheapest]:,.2f} an hour by the "
            f"estimate, {published}, as published, ${best.usd_per_hour:,.2f}; it would risk "
            "quality for nothing."
        )
    return Advice(topic="quantize", do=False, says=says)


def speculate(best: Sized, step: PhysicalStepTime, question: Question) -> Advice:
    """Whether a draft model would speed answers up, at the batch that the fleet runs.

    A step that checks k drafted tokens of each sequence gives (1 - a^(k+1)) /
    (1 - a) tokens (Leviathan et al. 2023, eq. 1) and takes as long as one with
    k more tokens a sequence. Drafting itself is left out, in favour of it.
    """
    demand = question.demand
    batch = running(best, question)
    context = mean_context(demand.prompt.mean, demand.output.mean)
    checked, plain = (step.seconds(verify_load(batch, context, k)) for k in (DRAFTED, 0))
    longer = checked / plain
    tokens = (1 - ACCEPTED ** (DRAFTED + 1)) / (1 - ACCEPTED)
    gain = tokens / longer
    figures = (
        f"with {batch:,.0f} answers at once on a replica, checking {DRAFTED} drafted tokens of "
        f"each makes a step {longer:.2f} times as long and gives {tokens:.2f} tokens where "
        f"{ACCEPTED:.0%} are accepted"
    )
    if gain >= WORTH:
        says = (
            f"Speculation may help: {figures}, {gain:.2f} times the pace before the cost of "
            "drafting. Measure the acceptance on your own prompts first."
        )
    else:
        says = f"Do not speculate: {figures}, so {gain:.2f} times the pace before any drafting."
    return Advice(topic="speculate", do=gain >= WORTH, says=says)


def running(best: Sized, question: Question) -> float:
    """Answers at once on a replica, by Little's law."""
    decode_s = (question.demand.output.mean - 1) * (best.replayed.tpot_s or 0)
    return max(1.0, question.demand.rate * decode_s / best.replicas)


def turns(settled: Sequence[Sized], question: Question) -> list[str]:
    """Loads above and below the demand at which another fleet than the first becomes cheapest."""
    said = []
    for word, factors in (("above", _FACTORS), ("below", 1 / _FACTORS)):
        for factor in factors[1:]:
            rate = question.demand.rate * float(factor)
            cheapest = min(settled, key=lambda sized: sized.usd_at(rate))
            if cheapest.usd_at(rate) < 0.999 * settled[0].usd_at(rate):
                said.append(f"{word} about {rate:.3g} requests/s {cheapest.option.candidate.name}")
                break
    return said


def reach(changes: Callable[[float], bool], low: float, high: float, exact: float = 1.02) -> float:
    """The highest factor, within `exact`, at which nothing has changed yet.

    Nothing has at `low`, something has at `high`: by bisection of the ratio.
    """
    while high / low > exact:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if changes(middle) else (middle, high)
    return low
