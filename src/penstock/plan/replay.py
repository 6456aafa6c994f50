"""Replays a demand on a fleet in the simulator: whether the limits hold, and where time goes."""

from __future__ import annotations

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
from penstock.workload.traces import Runs, Trace

ROUTER: RouterName = "least-loaded"
# Judged are so many seconds, and so many lengths of an answer, after some to settle: a fleet that
# is a little too small needs time to show it. Of requests, so many at least and at most.
JUDGED_S, ANSWERS, SETTLING = 120.0, 12.0, 2.0
LEAST, MOST = 1000, 15_000
LEAST_WAITING, FULL_HOUSES = 2000, 6  # requests, and seats' worth of them, in a queue that is long
# A replay whose figures lie nearer to a limit than this factor is played again, longer: near
# saturation a queue takes its time to grow.
CLOSE, LONGER = {"ttft": 1.8, "tpot": 1.05, "e2e": 1.15}, 5.0


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
        self._saturated: dict[tuple[str, int, int, int], float] = {}

    def __call__(
        self, option: Option, replicas: int, prefill: int, factor: float = 1.0
    ) -> Replayed:
        """Replay `factor` times the demand on so many replicas: for longer, where it was close."""
        slos = self._question.slos
        short, long = (self._judged_s(option, factor, longer) for longer in (1.0, LONGER))
        found = judge(*self._judged(option, replicas, prefill, factor, short), slos)
        if long > short and not _clear(found, slos):
            found = judge(*self._judged(option, replicas, prefill, factor, long), slos)
        # What grows too slowly to be seen in minutes breaks the limits in the hour.
        offered = self._question.demand.rate * factor
        lasts = not found.met or offered < self.saturated(option, replicas, prefill)
        return msgspec.structs.replace(found, met=found.met and lasts)

    def _judged(
        self, option: Option, replicas: int, prefill: int, factor: float, judged_s: float
    ) -> tuple[Simulated, npt.NDArray[np.bool_]]:
        """One replay, and which of its requests are judged."""
        rate = self._question.demand.rate * factor
        answer_s = self._answer_s(option)
        settled_s = SETTLING * answer_s
        # Requests beyond those judged keep the fleet busy while the last of these end.
        seconds = settled_s + judged_s + answer_s
        rng = np.random.default_rng([self._question.seed, 0])
        # As many as the rate says; when they come is chance, as of Poisson arrivals of that count.
        at_s = np.sort(rng.uniform(0, seconds, round(rate * seconds)))
        found = self.play(option, replicas, prefill, at_s)
        asked_s = found.column("asked_ns") * 1e-9
        return found, (asked_s >= settled_s) & (asked_s < settled_s + judged_s)

    def _judged_s(self, option: Option, factor: float, longer: float) -> float:
        """For how many seconds requests are judged."""
        rate, answer_s = self._question.demand.rate * factor, self._answer_s(option)
        wanted_s = longer * max(JUDGED_S, ANSWERS * answer_s, LEAST / rate)
        return max(min(wanted_s, MOST / rate), SETTLING * answer_s)

    def saturated(self, option: Option, replicas: int, prefill: int) -> float:
        """Requests/s that the fleet finishes while more wait than it can ever hold at once.

        Of a run of requests that are all there at the start: those between the
        first tenth, in which seats fill, and the last, in which they empty.
        Whole replicas finish each as much as one alone.
        """
        if not prefill and replicas > 1:
            return replicas * self.saturated(option, 1, 0)
        candidate = option.candidate
        key = (candidate.name, candidate.max_step_tokens, replicas, prefill)
        if key not in self._saturated:
            seats = replicas * candidate.max_running
            count = max(LEAST_WAITING, FULL_HOUSES * seats)
            found = self.play(option, replicas, prefill, np.zeros(count))
            ends = np.sort(found.column("last_ns")[found.finished]) * 1e-9
            low, high = len(ends) // 10, len(ends) - min(len(ends) // 2, seats) - 1
            self._saturated[key] = float((high - low) / (ends[high] - ends[low]))
        return self._saturated[key]

    def play(
        self, option: Option, replicas: int, prefill: int, at_s: npt.NDArray[np.float64]
    ) -> Simulated:
        """The demand's requests at any times, on so many replicas."""
        question, candidate = self._question, option.candidate
        rng = np.random.default_rng([question.seed, 1])
        return simulate(
            fleet_of(candidate, replicas, prefill),
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
    done = found.finished[judged]
    queue, ttft, tpot, e2e = (
        np.where(done, column[judged], np.inf)
        for column in (found.queue_s, found.ttft_s, found.tpot_s, found.e2e_s)
    )
    paced = tpot[~np.isnan(tpot)]  # an answer of one token has no pace
    values = {"ttft": ttft, "tpot": paced if len(paced) else np.zeros(1), "e2e": e2e}
    limits = {
        str(slo): float(np.quantile(values[slo.metric], slo.quantile or SHARE, method="higher"))
        for slo in slos
    }
    return Replayed(
        met=all(limits[str(slo)] <= slo.limit_s for slo in slos),
        limits=limits,
        requests=len(done),
        queue_s=float(queue.mean()),
        prefill_s=float((ttft - queue)[done].mean()),
        decode_s=float((e2e - ttft)[done].mean()),
        tpot_s=float(values["tpot"].mean()),
    )


def _clear(replayed: Replayed, slos: Sequence[Slo]) -> bool:
    """Whether chance could hardly have turned it: a limit missed, or all kept, by far."""
    used = [(replayed.limits[str(slo)] / slo.limit_s, CLOSE[slo.metric]) for slo in slos]
    return any(part > close for part, close in used) or all(
        part < 1 / close for part, close in used
    )


def fleet_of(candidate: Candidate, replicas: int, prefill: int) -> Fleet:
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
        kv_tokens=candidate.kv_tokens,
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
    blocks: list[Runs] = [((0, min(shared, tokens // PAGE)),) for tokens in prompts.tolist()]
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
    whole: npt.NDArray[np.float64] = np.rint(drawn * (lengths.mean / drawn.mean()))
    return np.maximum(whole, 1).astype(np.int64)
