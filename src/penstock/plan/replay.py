"""Replays a demand on a fleet in the simulator: whether the limits hold, and where time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.plan.basis import Steps
from penstock.plan.candidate import PAGE, Candidate
from penstock.plan.demand import Demand
from penstock.plan.options import Option
from penstock.plan.question import Question
from penstock.record.capacity import SHARE
from penstock.record.slo import Slo
from penstock.simulate.fleet import Fleet, Group, RouterName, Routing
from penstock.simulate.result import Simulated
from penstock.simulate.run import plan_of as simulated_plan
from penstock.simulate.run import simulate
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Plan
from penstock.workload.traces import Trace

ROUTER: RouterName = "least-loaded"
# Judged are at least so many seconds and requests, after so many lengths of an answer; a fleet
# that is a little too small needs time to show it. More requests than the most tell no more.
JUDGED_S, LEAST, MOST, SETTLING = 120.0, 1000, 12_000, 2.0


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """How a fleet did. Means in seconds; `limits` holds each limit's value at its quantile."""

    met: bool
    limits: dict[str, float]
    requests: int
    queue_s: float
    prefill_s: float
    decode_s: float
    tpot_s: float


class Replays:
    """Replays of one question's demand; equal ones give equal results."""

    def __init__(self, question: Question, steps: Steps) -> None:
        self._question = question
        self._steps = steps

    def __call__(
        self, option: Option, replicas: int, prefill: int, factor: float = 1.0
    ) -> Replayed:
        """Replay `factor` times the demand on so many replicas."""
        demand = self._question.demand.scaled(factor)
        answer_s = self._answer_s(option)
        settled_s = SETTLING * answer_s
        judged_s = max(min(JUDGED_S, MOST / demand.rate), LEAST / demand.rate, settled_s)
        # Requests beyond those judged keep the fleet busy while the last of these end.
        seconds = settled_s + judged_s + answer_s
        rng = np.random.default_rng([self._question.seed, 0])
        # As many as the rate says; when they come is chance, as of Poisson arrivals of that count.
        at_s = np.sort(rng.uniform(0, seconds, round(demand.rate * seconds)))
        found = self.play(option, replicas, prefill, at_s)
        asked_s = found.column("asked_ns") * 1e-9
        judged = (asked_s >= settled_s) & (asked_s < settled_s + judged_s)
        return judge(found, judged, self._question.slos)

    def saturated(self, option: Option, replicas: int, prefill: int) -> float:
        """Requests/s that the fleet finishes while more wait than it can ever hold at once.

        Of a run of requests that are all there at the start: those between the
        first tenth, in which seats fill, and the last, in which they empty.
        """
        seats = replicas * option.candidate.max_running
        count = min(MOST, max(LEAST, 10 * seats))
        found = self.play(option, replicas, prefill, np.zeros(count))
        ends = np.sort(found.column("last_ns")[found.finished]) * 1e-9
        low, high = len(ends) // 10, len(ends) - min(len(ends) // 2, seats) - 1
        return float((high - low) / (ends[high] - ends[low]))

    def play(
        self, option: Option, replicas: int, prefill: int, at_s: npt.NDArray[np.float64]
    ) -> Simulated:
        """The demand's requests at any times, on so many replicas."""
        question, candidate = self._question, option.candidate
        rng = np.random.default_rng([question.seed, 1])
        return simulate(
            fleet_of(candidate, question.demand, replicas, prefill),
            asks(question.demand, at_s, question.model.positions, rng),
            question.seed,
            steps=[self._steps.of(candidate.deployment)] * (2 if prefill else 1),
        )

    def _answer_s(self, option: Option) -> float:
        flow = option.flow
        return flow.prefill_s + self._question.demand.output.mean * flow.tpot_s


def judge(found: Simulated, judged: npt.NDArray[np.bool_], slos: Sequence[Slo]) -> Replayed:
    """Whether the judged requests keep each limit, at its quantile, and where their time went.

    A request that did not finish keeps none.
    """
    unfinished = judged & ~found.finished
    columns = {"ttft": found.ttft_s, "tpot": found.tpot_s, "e2e": found.e2e_s}
    limits = {}
    for slo in slos:
        values = np.where(unfinished, np.inf, columns[slo.metric])[judged]
        values = values[~np.isnan(values)]  # answers of one token have no pace
        quantile = slo.quantile or SHARE
        limits[str(slo)] = (
            float(np.quantile(values, quantile, method="higher")) if len(values) else 0.0
        )
    done = judged & found.finished
    queue, ttft, e2e = (
        float(column[done].mean()) if done.any() else math.inf
        for column in (found.queue_s, found.ttft_s, found.e2e_s)
    )
    return Replayed(
        met=bool(judged.any()) and all(limits[str(slo)] <= slo.limit_s for slo in slos),
        limits=limits,
        requests=int(judged.sum()),
        queue_s=queue,
        prefill_s=ttft - queue,
        decode_s=e2e - ttft,
        tpot_s=float(np.nanmean(found.tpot_s[done])) if done.any() else math.inf,
    )


def fleet_of(candidate: Candidate, demand: Demand, replicas: int, prefill: int) -> Fleet:
    """The fleet as the simulator takes it, and as its TOML file says it."""
    d = candidate.deployment
    network = d.device.network_bytes_per_s
    group = Group(
        count=replicas,
        role="decode" if prefill else "whole",
        model=d.model.name,
        device=d.device.name,
        weights=d.weights,
        kv=d.kv,
        tp=d.tp,
        ep=d.ep,
        kv_tokens=int(d.kv_tokens(demand.tokens)),
        page_tokens=PAGE,
        policy=_policy(candidate),
        link_bytes_per_s=network * d.devices if prefill and network else None,
        kv_bytes_per_token=d.model.kv_bytes_per_token(d.kv) if prefill else None,
    )
    groups: tuple[Group, ...] = (group,)
    if prefill:
        groups = (msgspec.structs.replace(group, count=prefill, role="prefill"), group)
    return Fleet(name=candidate.name, replicas=groups, router=Routing(policy=ROUTER))


def _policy(candidate: Candidate) -> dict[str, Any]:
    return {
        "preset": "vllm",
        "max_running": candidate.max_running,
        "max_step_tokens": candidate.max_step_tokens,
    }


def asks(
    demand: Demand, at_s: npt.NDArray[np.float64], context: int, rng: np.random.Generator
) -> Plan:
    """Requests at these times; the cached part of their prompts is one that all share."""
    prompts = _lengths(demand.prompt, len(at_s), rng)
    shared = round(demand.cached * demand.prompt.mean / PAGE)
    blocks = [((0, min(shared, tokens // PAGE)),) for tokens in prompts.tolist()]
    return simulated_plan(
        Trace(
            format="drawn",
            at_s=at_s,
            prompt_tokens=prompts,
            output_tokens=_lengths(demand.output, len(at_s), rng),
            blocks=blocks if shared else None,
            block_tokens=PAGE,
        ),
        context=context,
    )


def _lengths(lengths: Lengths, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Lengths whose mean is the one that is asked for."""
    drawn = lengths.draw(count, rng)
    return np.maximum(np.rint(drawn * (lengths.mean / drawn.mean())), 1).astype(np.int64)
