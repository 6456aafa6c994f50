"""What every plan ends with: the capability it rests on, the cost it moves, what changes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.plan import advice, estimate
from penstock.plan.basis import Basis
from penstock.plan.headroom import Headroom
from penstock.plan.options import carried
from penstock.plan.question import Question
from penstock.plan.search import Sized
from penstock.predict.physical import PhysicalStepTime
from penstock.workload.lengths import Lengths

_MOST = 8.0  # factor up to which lengths are looked at

# What makes the largest part of a step smaller.
_DRIVERS = {
    "weights": "bytes of weights read and operations done on them: smaller formats, or more "
    "answers to share each reading",
    "experts": "experts read by each step: smaller formats, or more answers at once to share them",
    "kv": "bytes of K and V read for each answer: shorter contexts, a smaller KV format, more "
    "bandwidth",
    "attention": "attention over prompts: shorter prompts, or prefixes that a cache holds",
    "communication": "traffic between a replica's devices: fewer of them to each, faster links",
    "layers": "launches of each layer, which no rate shortens: fewer layers, captured graphs",
    "sequences": "work for each sequence beside the model: sampling, handing over",
    "step": "the fixed time of a step: fewer, fuller ones",
}


def ends(
    settled: Sequence[Sized],
    question: Question,
    step: PhysicalStepTime,
    *,
    basis: Basis,
    headroom: Headroom,
    replicas: tuple[int, int],
) -> list[str]:
    """Three sentences about the first fleet; `replicas` are the fewest and most it may take."""
    best = settled[0]
    return [
        _capability(best, question, basis, headroom, replicas),
        _driver(best, question, step),
        _change(settled, question, step, headroom),
    ]


def _capability(
    best: Sized, question: Question, basis: Basis, headroom: Headroom, replicas: tuple[int, int]
) -> str:
    each = headroom.factor * question.demand.rate / best.replicas
    low, high = replicas
    span = f"{low} to {high} replicas" if low != high else f"{low} replica{'s' * (low > 1)}"
    sure = (
        ""
        if basis.measured
        else " Measure it: `penstock bench`, then `penstock calibrate` on its run."
    )
    return (
        f"It rests on one capability: a replica ({best.option.candidate.name}) carries "
        f"{each:.3g} requests/s within the limits. That is {basis.says}. With step times from "
        f"{basis.low:.2f} to {basis.high:.2f} times these it takes {span}.{sure}"
    )


def _driver(best: Sized, question: Question, step: PhysicalStepTime) -> str:
    demand, batch = question.demand, advice.running(best, question)
    load = estimate.load(demand, batch, batch * demand.prompt.mean / demand.output.mean)
    parts = step.terms(load)
    name = max(parts, key=lambda part: parts[part])
    share = parts[name] / sum(parts.values())
    devices = (best.replicas + best.prefill) * best.option.candidate.deployment.devices
    spent, each = devices / demand.mean_rate, best.option.price.usd_per_hour / 3600
    return (
        f"It moves device-seconds: {spent:.3g} of them a request, at ${each:.5f} each. "
        f"{share:.0%} of a step's time is {name}, that is {_DRIVERS[name]}."
    )


def _change(
    settled: Sequence[Sized], question: Question, step: PhysicalStepTime, headroom: Headroom
) -> str:
    best, rate, factor = settled[0], question.demand.rate, headroom.factor
    said = [f"above {factor * rate:.3g} requests/s ({factor - 1:+.0%}): a replica more"]
    if best.replicas > 1:
        fewer = factor * rate * (best.replicas - 1) / best.replicas
        said.append(f"below about {fewer:.3g} ({fewer / rate - 1:+.0%}): one fewer")
    for name in ("prompt", "output"):
        if (longer := _longer(best, question, step, headroom, name)) is not None:
            said.append(f"with {name}s beyond about {longer:,.0f} tokens: a replica more")
    said += [f"{at}: cheapest" for at in advice.turns(settled, question)]
    return "Another answer is right " + "; ".join(said) + "."


def _longer(
    best: Sized, question: Question, step: PhysicalStepTime, headroom: Headroom, name: str
) -> float | None:
    """Mean length at which the fleet no longer carries the rate, by the estimate; None if far."""
    lengths: Lengths = getattr(question.demand, name)

    def breaks(factor: float) -> bool:
        stretched = Lengths(kind=lengths.kind, a=lengths.a * factor, b=lengths.b * factor)
        demand = msgspec.structs.replace(question.demand, **{name: stretched})
        if demand.tokens > question.model.positions:
            return True
        asked = msgspec.structs.replace(question, demand=demand)
        return headroom.factor * carried(best.option, asked, step) < 1

    if not breaks(_MOST):
        return None
    return lengths.mean * advice.reach(breaks, 1.0, _MOST)
