"""What one replica carries under an open load: a balance of flows, without a clock.

Where B sequences decode at once and each answer has O tokens, B / O of them
end in every step, and as many begin, whose prompts of P tokens the same step
must compute: so a step holds B decodes and B · P / O prompt tokens, and B
alone sets its time T(B), the time per output token, and the rate B / (O · T).
The wait for the first token is that of a queue with one server of fixed time,
load / (2 · (1 - load)) services (Pollaczek-Khinchine). It ranks fleets and
says where to begin; whether limits hold is for the simulator to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from penstock.plan.demand import Demand
from penstock.predict.deployment import Deployment
from penstock.predict.steptime import StepLoad, StepTime
from penstock.record.capacity import SHARE
from penstock.record.slo import Slo

PACE = 1.1  # of a slow answer beside the mean one
_SMALLEST, _ROUNDS = 1e-3, 40  # of the bisection, in sequences at once


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A replica in balance: what it carries and what that means to a user, on average.

    `decodes` run at once. `wait_s` is the time in the queue, `prefill_s` that
    of computing a prompt among the rest's decodes.
    """

    decodes: float
    rate: float  # requests/s
    tpot_s: float
    wait_s: float
    prefill_s: float

    def value(self, slo: Slo, output: float) -> float:
        """What the limit speaks of, at its quantile, in seconds.

        The wait of such a queue is about exponential; the pace of an answer,
        a mean over its many steps, varies little.
        """
        tail = -math.log(1 - (slo.quantile or SHARE))
        ttft = self.wait_s * max(1.0, tail) + self.prefill_s
        if slo.metric == "ttft":
            return ttft
        pace = PACE * self.tpot_s
        return pace if slo.metric == "tpot" else ttft + (output - 1) * pace


def whole(step: StepTime, demand: Demand, max_step_tokens: int, decodes: float) -> Flow:
    """A replica that computes prompts and answers."""
    prompt, output = _computed(demand), demand.output.mean
    room = max_step_tokens - decodes
    chunk = min(prompt, room)
    tpot = step.seconds(load(demand, decodes, decodes * prompt / output))
    rate = decodes / (output * tpot)
    if room <= 0:
        return Flow(decodes=decodes, rate=rate, tpot_s=tpot, wait_s=math.inf, prefill_s=math.inf)
    # What else a step could compute is the server of the queue for prompts.
    full = step.seconds(load(demand, decodes, room))
    busy = rate * prompt * full / room
    service = step.seconds(load(demand, decodes, chunk)) * prompt / chunk
    return Flow(
        decodes=decodes,
        rate=rate,
        tpot_s=tpot,
        wait_s=tpot / 2 + _queue(busy, prompt * full / room),
        prefill_s=step.request_s + service,
    )


def decoding(step: StepTime, demand: Demand, decodes: float) -> Flow:
    """A replica that only writes answers."""
    tpot = step.seconds(load(demand, decodes, 0))
    rate = decodes / (demand.output.mean * tpot)
    return Flow(decodes=decodes, rate=rate, tpot_s=tpot, wait_s=0.0, prefill_s=0.0)


def prefilling(
    step: StepTime, demand: Demand, max_step_tokens: int, link_s: float, busy: float
) -> Flow:
    """A replica that only computes prompts, for the share `busy` of the time.

    Their K and V then take `link_s` to where the answers are written.
    """
    prompt = _computed(demand)
    chunk = min(prompt, max_step_tokens)
    service = step.seconds(load(demand, 0, chunk)) * prompt / chunk
    return Flow(
        decodes=0,
        rate=busy / service,
        tpot_s=0.0,
        wait_s=_queue(busy, service),
        prefill_s=step.request_s + service + link_s,
    )


def most(flow: Callable[[float], Flow], slos: Sequence[Slo], output: float, cap: float) -> Flow:
    """The flow of the highest load up to `cap` that keeps every limit, by bisection.

    Where even the least load breaks one, that flow, so that it can be said how far it is off.
    """
    low, high = min(_SMALLEST, cap), cap
    if keeps(flow(high), slos, output):
        return flow(high)
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(flow(middle), slos, output) else (low, middle)
    return flow(low)


def keeps(flow: Flow, slos: Sequence[Slo], output: float) -> bool:
    """Whether it keeps every limit."""
    return all(flow.value(slo, output) <= slo.limit_s for slo in slos)


def sequences(deployment: Deployment, demand: Demand) -> float:
    """How many sequences of the demand's mean length the KV pool holds while they are written."""
    context = demand.prompt.mean + demand.output.mean
    return deployment.kv_tokens(context) / (demand.prompt.mean + demand.output.mean / 2)


def _computed(demand: Demand) -> float:
    """Prompt tokens that are computed; the last one always is."""
    return max(1.0, demand.prompt.mean * (1 - demand.cached))


def load(demand: Demand, decodes: float, prefill: float) -> StepLoad:
    """A step of so many decodes in the middle of their answers, and so many prompt tokens."""
    prompt, computed, output = demand.prompt.mean, _computed(demand), demand.output.mean
    return StepLoad(
        prefill_tokens=prefill,
        prefill_pairs=prefill * (prompt - computed + (computed + 1) / 2),
        decodes=decodes,
        decode_context=decodes * (prompt + output / 2),
        logits=decodes + prefill / computed,
    )


def _queue(busy: float, service: float) -> float:
    return math.inf if busy >= 1 else service * busy / (2 * (1 - busy))
