"""A plan as it is told: the fleets, what they cost, how sure that is, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.plan import advice, estimate
from penstock.plan.advice import Advice
from penstock.plan.api import Beside, beside
from penstock.plan.basis import Basis, Steps
from penstock.plan.cost import Cost, cost
from penstock.plan.curve import Curve
from penstock.plan.demand import Demand
from penstock.plan.ends import ends
from penstock.plan.headroom import Headroom, headroom
from penstock.plan.hours import Hours, OffPeak, follow, off_peak
from penstock.plan.options import NoFleet, options
from penstock.plan.question import Question
from penstock.plan.replay import Replays, fleet_of
from penstock.plan.search import Sized, settle
from penstock.predict.stepfile import StepFile
from penstock.record.price import Price
from penstock.simulate.fleet import Fleet as Sim

_LOADS = np.geomspace(0.1, 10, 161)  # of the demand, at which costs are told
STARTUP_S = 120.0  # of a replica: weights read from a disk or a store, and a warm-up


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """Mean seconds of an answer by where they go; the limits' values at their quantiles."""

    queue_s: float
    prefill_s: float
    decode_s: float
    limits: dict[str, float]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that holds the limits, with the figures that a planner chooses by.

    `carries` is the rate that one replica takes within the limits,
    `utilisation` the demand's share of what the whole fleet takes so.
    `by_load` are requests/s and the dollars an hour of as many replicas as they need.
    """

    name: str
    hardware: str
    weights: str
    kv: str
    tp: int
    ep: int
    max_running: int
    max_step_tokens: int
    replicas: int
    prefill_replicas: int
    devices: int
    power_kw: float | None
    usd_per_device_hour: float
    price_source: str
    cost: Cost
    response: Response
    carries: float
    utilisation: float
    by_load: list[tuple[float, float]]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan is where step times are shorter or longer, as far as they may be."""

    step_time: tuple[float, float]
    replicas: tuple[int, int]
    usd_per_month: tuple[float, float]
    usd_per_million_tokens: tuple[float, float]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for one model: fleets by cost, the first of them looked at closely.

    `ends` are the three sentences that every plan ends with: the capability
    it rests on, the cost driver that moves it, and what change in demand would
    make another answer right. `sim` is the first fleet as the simulator takes it,
    `fitted` its step times where they were calibrated.
    """

    model: str
    demand: Demand
    prompt: str
    output: str
    slo: list[str]
    fleets: list[Fleet]
    headroom: Headroom
    interval: Interval
    basis: Basis
    advice: list[Advice]
    ends: list[str]
    sim: Sim
    fitted: StepFile | None
    api: list[Beside] = []
    off_peak: OffPeak | None = None
    hours: Hours | None = None


def answer(
    question: Question,
    steps: Steps,
    *,
    prices: Sequence[tuple[str, Price]] = (),
    curve: Curve | None = None,
    startup_s: float = STARTUP_S,
) -> Answer:
    """Plan: rank by the estimate, settle by replays, and say what the answer stands on.

    `prices` are APIs to compare with. `curve` is a day (or a trace), which a
    fleet may follow and into whose valleys batch work may go; a replica takes
    `startup_s` to start. Raises `NoFleet` where nothing keeps the limits.
    """
    demand, replays = question.demand, Replays(question, steps)
    found = options(question, steps)
    settled = settle(found, demand.rate, replays)
    if not settled:
        raise NoFleet(
            "slo: no fleet kept it when the demand was replayed, though the estimate says that "
            f"{found[0].candidate.name} may. To do: raise the limit a little, or take faster "
            "hardware."
        )
    best = settled[0]
    candidate = best.option.candidate
    step, batch = steps.of(candidate.deployment), advice.running(best, question)
    mixed = estimate.load(demand, batch, batch * demand.prompt.mean / demand.output.mean)
    basis = steps.basis(candidate.deployment, mixed, split=candidate.split)
    room = headroom(best, question, replays)
    carries = room.factor * demand.rate
    interval = _interval(best, demand, basis, room.factor)
    each = [carries / count for count in (best.replicas, best.prefill) if count]
    usd = candidate.usd_per_hour
    return Answer(
        model=question.model.name,
        demand=demand,
        prompt=str(demand.prompt),
        output=str(demand.output),
        slo=[str(slo) for slo in question.slos],
        fleets=[
            _fleet(sized, question, room.factor if sized is best else sized.spare)
            for sized in settled
        ],
        headroom=room,
        interval=interval,
        basis=basis,
        advice=[
            advice.split(settled, found, question),
            advice.quantize(best, found, question),
            advice.speculate(best, step, question),
        ],
        ends=ends(settled, question, step, basis=basis, headroom=room, replicas=interval.replicas),
        sim=fleet_of(candidate, best.replicas, best.prefill),
        fitted=steps.file_of(candidate.deployment, demand.tokens),
        api=[
            beside(
                name,
                price,
                demand,
                fleet_per_hour=best.usd_per_hour,
                carries=carries * demand.mean_share,
                smallest_per_hour=usd * len(each),
            )
            for name, price in prices
        ],
        off_peak=off_peak(curve, demand.batch, each, usd) if curve and demand.batch else None,
        hours=follow(
            curve,
            each,
            devices=candidate.deployment.devices,
            usd_per_hour=usd,
            startup_s=startup_s,
        )
        if curve
        else None,
    )


def _devices(sized: Sized) -> int:
    return (sized.replicas + sized.prefill) * sized.option.candidate.deployment.devices


def _fleet(sized: Sized, question: Question, factor: float) -> Fleet:
    """`factor` times the demand is what it carries: by replays, or about, by the estimate."""
    option, replayed = sized.option, sized.replayed
    candidate, demand = option.candidate, question.demand
    d, devices = candidate.deployment, _devices(sized)
    return Fleet(
        name=candidate.name,
        hardware=d.device.name,
        weights=d.weights,
        kv=d.kv,
        tp=d.tp,
        ep=d.ep,
        max_running=candidate.max_running,
        max_step_tokens=candidate.max_step_tokens,
        replicas=sized.replicas,
        prefill_replicas=sized.prefill,
        devices=devices,
        power_kw=None if d.device.power_w is None else d.device.power_w * devices / 1000,
        usd_per_device_hour=option.price.usd_per_hour,
        price_source=option.price.source,
        cost=cost(sized.usd_per_hour, demand),
        response=Response(
            queue_s=replayed.queue_s,
            prefill_s=replayed.prefill_s,
            decode_s=replayed.decode_s,
            limits=replayed.limits,
        ),
        carries=demand.rate * factor / sized.replicas,
        utilisation=1 / factor,
        by_load=[(rate, sized.usd_at(rate)) for rate in (demand.rate * _LOADS).tolist()],
    )


def _interval(best: Sized, demand: Demand, basis: Basis, factor: float) -> Interval:
    """Fleets for step times as short and as long as they may be.

    `factor` is the headroom: with longer steps a replica carries so much less of it.
    """
    kinds = [count for count in (best.replicas, best.prefill) if count]
    low, high = (
        sum(max(1, math.ceil(count * longer / factor - 1e-9)) for count in kinds)
        for longer in (basis.low, basis.high)
    )
    costs = [cost(n * best.option.candidate.usd_per_hour, demand) for n in (low, high)]
    return Interval(
        step_time=(basis.low, basis.high),
        replicas=(low, high),
        usd_per_month=(costs[0].per_month, costs[1].per_month),
        usd_per_million_tokens=(costs[0].per_million_tokens, costs[1].per_million_tokens),
    )
