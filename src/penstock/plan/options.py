"""Every fleet worth looking at, sized and ranked by the estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from penstock.plan import estimate
from penstock.plan.basis import Steps
from penstock.plan.candidate import PAGE, STEP_TOKENS, Candidate, deployments, why_none
from penstock.plan.demand import Demand
from penstock.plan.estimate import Flow
from penstock.plan.question import Priced, Question
from penstock.predict.deployment import Deployment
from penstock.predict.steptime import StepTime
from penstock.record.slo import Slo

MOST_RUNNING = 1024  # sequences at once on a replica; hardly a server is run with more
_FULL = 1.05  # the pace of a slow answer on a full replica, beside the mean one's
_FULLEST = 0.98  # of the time of a replica that only computes prompts


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of replica, what one carries by the estimate, and so how many it takes.

    `replicas` compute whole requests, or only their answers where `prefill`
    replicas compute the prompts, as `prompts` says.
    """

    candidate: Candidate
    price: Priced
    flow: Flow
    prompts: Flow | None
    replicas: int
    prefill: int

    @property
    def usd_per_hour(self) -> float:
        """Of the whole fleet."""
        return (self.replicas + self.prefill) * self.candidate.usd_per_hour


class NoFleet(ValueError):
    """No fleet keeps the limits; the message says what the best reaches, and what binds."""


def options(question: Question, steps: Steps) -> list[Option]:
    """The fleets that may keep the limits, by cost.

    Raises `NoFleet` where no replica of any hardware keeps them, however
    little it is given to do.
    """
    found, failed, reasons = list[Option](), list[Option](), list[str]()
    context = question.demand.tokens
    for price in question.hardware:
        made = [*deployments(question.model, price.device, question.weights, context)]
        if not made:
            reasons.append(why_none(question.model, price.device, question.weights))
        for deployment in made:
            for option in _options(question, steps, price, deployment):
                kept = _keeps(option.flow, option.prompts, question)
                (found if kept else failed).append(option)
    if not found:
        raise NoFleet(_none(question, failed, reasons, steps))
    return sorted(found, key=_order)


def _order(option: Option) -> tuple[float, bool, bool, int]:
    """The cheapest first; of equal ones what changes least: whole, as published, few devices."""
    d = option.candidate.deployment
    return option.usd_per_hour, option.candidate.split, d.weights != d.model.weights, d.devices


def _options(
    question: Question, steps: Steps, price: Priced, deployment: Deployment
) -> Iterator[Option]:
    """Whole replicas with the better size of a step, and a fleet with prompts apart."""
    step = steps.of(deployment)
    usd = deployment.devices * price.usd_per_hour
    kv_tokens = steps.kv_tokens(deployment, question.demand.tokens)

    def option(tokens: int, split: bool) -> Option:
        bare = Candidate(
            deployment=deployment,
            kv_tokens=kv_tokens,
            max_running=MOST_RUNNING,
            max_step_tokens=tokens,
            usd_per_hour=usd,
            split=split,
        )
        candidate = msgspec.structs.replace(bare, max_running=_running(bare, question, step))
        flow, prompts = flows(candidate, question, step)
        return Option(
            candidate=candidate,
            price=price,
            flow=flow,
            prompts=prompts,
            replicas=_enough(question.demand, flow),
            prefill=0 if prompts is None else _enough(question.demand, prompts),
        )

    yield max((option(tokens, False) for tokens in STEP_TOKENS), key=lambda o: o.flow.rate)
    if question.split and deployment.device.network_bytes_per_s is not None:
        yield option(max(STEP_TOKENS), True)


def flows(
    candidate: Candidate, question: Question, step: StepTime, slos: Sequence[Slo] | None = None
) -> tuple[Flow, Flow | None]:
    """The most that one replica carries within the limits; of a split fleet, one of each kind."""
    demand, tokens = question.demand, candidate.max_step_tokens
    slos, output = question.slos if slos is None else slos, demand.output.mean
    kept = candidate.kv_tokens / (demand.prompt.mean + output)
    room = min(candidate.max_running, tokens - PAGE, kept)
    if not candidate.split:
        whole = partial(estimate.whole, step, demand, tokens)
        return estimate.most(whole, slos, output, room), None
    decoding = partial(estimate.decoding, step, demand)
    link_s = candidate.transfer_s(demand.prompt.mean)
    prefilling = partial(estimate.prefilling, step, demand, tokens, link_s)
    return (
        estimate.most(decoding, slos, output, room),
        estimate.most(prefilling, slos, output, _FULLEST),
    )


def carried(option: Option, question: Question, step: StepTime) -> float:
    """What a replica carries under a changed question, as a factor of what it did."""
    flow, prompts = flows(option.candidate, question, step)
    factor = flow.rate / option.flow.rate
    if prompts is not None and option.prompts is not None:
        factor = min(factor, prompts.rate / option.prompts.rate)
    return factor if _keeps(flow, prompts, question) else 0.0


def _running(candidate: Candidate, question: Question, step: StepTime) -> int:
    """Sequences at once beyond which answers would come too slowly: the rest had better wait."""
    pace = [
        msgspec.structs.replace(slo, quantile=0.5, limit_s=slo.limit_s / _FULL)
        for slo in question.slos
        if slo.metric == "tpot"
    ]
    flow, _ = flows(candidate, question, step, pace)
    return max(1, round(flow.decodes))


def _enough(demand: Demand, flow: Flow) -> int:
    return max(1, math.ceil(demand.rate / flow.rate - 1e-9))


def _keeps(flow: Flow, prompts: Flow | None, question: Question) -> bool:
    return all(
        estimate.keeps(each, question.slos, question.demand.output.mean)
        for each in (flow, prompts)
        if each is not None
    )


def _none(
    question: Question, failed: Sequence[Option], reasons: Sequence[str], steps: Steps
) -> str:
    """The best that any replica reaches of each limit that none keeps, and what binds there."""
    if not failed:
        return "no hardware here can hold the model: " + "; ".join(reasons)
    output, said = question.demand.output.mean, []
    for slo in question.slos:
        value, option = min(
            ((_value(option, slo, output), option) for option in failed), key=lambda each: each[0]
        )
        if value > slo.limit_s:
            binds = _binds(steps, option, question.demand, slo)
            said.append(
                f"{slo}: the best of {len(failed)} kinds of replica, {option.candidate.name}, "
                f"reaches {value:.3g} s with a single request on it; {binds}"
            )
    if not said:
        said = ["each limit can be kept alone, but no replica keeps all of them at once"]
    remedy = "raise the limit, shorten prompts, or take faster hardware, formats or a smaller model"
    return "slo: no fleet can keep it. " + "; ".join([*said, *reasons]) + f". To do: {remedy}."


def _value(option: Option, slo: Slo, output: float) -> float:
    flows = [flow for flow in (option.flow, option.prompts) if flow is not None]
    return max(flow.value(slo, output) for flow in flows)


def _binds(steps: Steps, option: Option, demand: Demand, slo: Slo) -> str:
    """The largest part of a step with one request in it, as a phrase."""
    step = steps.of(option.candidate.deployment)
    prefill = slo.metric == "ttft"
    load = estimate.load(demand, 0 if prefill else 1, demand.prompt.mean if prefill else 0)
    name, seconds = max(step.terms(load).items(), key=lambda term: term[1])
    what = "its prompt" if prefill else "a token"
    return f"{what} takes {step.seconds(load) * 1000:.3g} ms, {seconds * 1000:.3g} of them {name}"
