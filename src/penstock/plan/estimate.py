"""What one replica carries under an open load: a balance of flows, without a clock.

Where B sequences decode at once and each answer has O tokens, B / O of them
end in every step and as many begin, whose prompts of P tokens must be computed
meanwhile: B · P / O prompt tokens a step on average, in chunks that some steps
hold beside the decodes. So B alone sets the mean time of a step T(B), which is
the time per output token, and the rate B / (O · T).
The wait for the first token is that of a queue for the tokens of a step that
its decodes leave. It ranks fleets and
says where to begin; whether limits hold is for the simulator to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
from scipy.stats import norm

from penstock.plan.demand import Demand
from penstock.predict.steptime import StepLoad, StepTime
from penstock.record.capacity import SHARE
from penstock.record.slo import Slo
from penstock.workload.lengths import Lengths

_SMALLEST, _ROUNDS = 1e-3, 40  # of the bisection, in sequences at once


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A replica in balance: what it carries and what that means to a user, on average.

    `decodes` run at once. `swing_s` is the standard deviation of an answer's
    own time per output token about the mean `tpot_s`. `wait_s` is the time in
    the queue, `prefill_s` that of computing a prompt among the rest's decodes.
    """

    decodes: float
    rate: float  # requests/s
    tpot_s: float
    swing_s: float
    wait_s: float
    prefill_s: float

    def value(self, slo: Slo, output: float) -> float:
        """What the limit speaks of, at its quantile, in seconds.

        The wait is taken to be exponential, the pace to be normal.
        """
        quantile = slo.quantile or SHARE
        ttft = self.wait_s * max(1.0, -math.log(1 - quantile)) + self.prefill_s
        pace = self.tpot_s + self.swing_s * max(0.0, float(norm.ppf(quantile)))
        if slo.metric == "ttft":
            return ttft
        return pace if slo.metric == "tpot" else ttft + (output - 1) * pace


def whole(step: StepTime, demand: Demand, max_step_tokens: int, decodes: float) -> Flow:
    """A replica that computes prompts and answers."""
    prompt, output = _computed(demand), demand.output.mean
    room = max_step_tokens - decodes

    chunk = min(prompt, room)

    def pace(at_once: float) -> tuple[float, float]:
        """Mean seconds of a step, and the deviation of an answer's from that."""
        # Prompts come in chunks, in some steps: spread over all of them their arithmetic
        # would hide behind the reading of weights. How many an answer meets is chance.
        needed = at_once * prompt / output
        held = max(chunk, min(needed, room))
        share = min(1.0, needed / held)
        alone, beside = (step.seconds(load(demand, at_once, n)) for n in (0, held))
        met = math.sqrt(share / output) * _spread(demand.prompt)
        return (1 - share) * alone + share * beside, met * (beside - alone)

    tpot, chunks = pace(decodes)
    rate = decodes / (output * tpot)
    # What else a step could compute is the server of the queue for prompts.
    full = step.seconds(load(demand, decodes, room))
    return Flow(
        decodes=decodes,
        rate=rate,
        tpot_s=tpot,
        swing_s=math.hypot(pace(decodes + _deviation(demand, decodes, rate))[0] - tpot, chunks),
        wait_s=tpot / 2 + _queue(rate * prompt * full / room, prompt * full / room, demand),
        prefill_s=step.request_s + step.seconds(load(demand, decodes, chunk)) * prompt / chunk,
    )


def decoding(step: StepTime, demand: Demand, decodes: float) -> Flow:
    """A replica that only writes answers."""
    tpot = step.seconds(load(demand, decodes, 0))
    rate = decodes / (demand.output.mean * tpot)
    more = decodes + _deviation(demand, decodes, rate)
    swing = step.seconds(load(demand, more, 0)) - tpot
    return Flow(decodes=decodes, rate=rate, tpot_s=tpot, swing_s=swing, wait_s=0.0, prefill_s=0.0)


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
        swing_s=0.0,
        wait_s=_queue(busy, service, demand),
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


def _deviation(demand: Demand, decodes: float, rate: float) -> float:
    """Standard deviation of a replica's sequences at once.

    Over the fleet they vary as a Poisson count does; the router spreads that evenly.
    """
    replicas = max(1.0, demand.rate / rate)
    return math.sqrt(decodes / replicas)


def _queue(busy: float, service: float, demand: Demand) -> float:
    """Mean wait of a queue that is busy for such a share, by Pollaczek and Khinchine."""
    if busy >= 1:
        return math.inf
    return service * busy / (2 * (1 - busy)) * _spread(demand.prompt) ** 2


def _spread(lengths: Lengths) -> float:
    """Root of the mean square over the mean: 1 where all are equal."""
    deviation = (lengths.b - lengths.a) / math.sqrt(12) if lengths.kind == "uniform" else lengths.b
    return math.hypot(1.0, deviation / lengths.mean)
