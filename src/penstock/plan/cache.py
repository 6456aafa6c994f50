"""How much KV is enough: a trace replayed on pools of many sizes, in the simulator.

The scheduler and the prefix cache are the engine's own, so hits are those of this policy under
these arrivals; seconds are the step-time model's, and decide only how requests overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from penstock.plan.knee import Knee, Pool, enough, knee
from penstock.simulate.fleet import Fleet, Group
from penstock.simulate.machine import kept_bytes_per_token, own_kv_tokens, positions
from penstock.simulate.pages import by_page
from penstock.simulate.run import simulate
from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import Lengths
from penstock.workload.plan import Plan
from penstock.workload.sessions import Recorded
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source
from penstock.workload.subset import within
from penstock.workload.traces import Trace

# More was asked than could be computed: of who waits for answers, if steps run all the time; of
# who does not, if the last answers come long after the last request.
FULL, LATE = 0.95, 0.05
HALVINGS = 2  # how often the gap below the knee is halved
_SPARE = 1.1  # pages of a pool that forgets nothing, over those that the trace fills


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A load on a fleet whose replicas' pool is to be sized.

    `longest` is the most tokens that one request holds, `everything` the pages of
    a pool that never forgets. `bytes_per_token` is None where the model is not known.
    """

    fleet: Fleet
    plan: Plan
    trace: str
    requests: int
    longest: int
    everything: int
    held: int | None  # tokens that a replica holds by itself
    bytes_per_token: float | None
    seed: int

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self.fleet.replicas[0].page_tokens

    @property
    def least(self) -> int:
        """Pages that hold the longest request; its last token is never computed."""
        return math.ceil((self.longest - 1) / self.page_tokens)


class Sweep(msgspec.Struct, kw_only=True):
    """What came of it: pools by size, the last of them one that never forgets.

    `knee` is None where a sweep broke off before it was known. Sizes are of each replica.
    """

    trace: str
    requests: int
    load: str
    fleet: str
    hardware: str
    page_tokens: int
    bytes_per_token: float | None
    longest_request: int  # tokens
    held_tokens: int | None  # by a replica as it is, where that is known
    held: Pool | None  # that size simulated, where it is one to ask about
    pools: list[Pool]
    unbounded: Pool
    knee: Knee | None
    interrupted: bool
    notes: list[str]


def question(
    fleet: Fleet,
    trace: Trace,
    name: str,
    *,
    page_tokens: int | None = None,
    context: int | None = None,
    speed: float = 1.0,
    concurrency: int | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> Question:
    """What is asked of which fleet. `speed` is of a trace's clock, and of its sessions' thinking.

    Requests longer than `context`, or the fleet's, or else the model's, are left out, and the
    plan's notes say so.
    Requests of a trace come when they came; where they wait for answers, `concurrency`
    sessions go on at once, or `rate` of them begin a second. Raises `ValueError` for what
    cannot be asked.
    """
    if any(group.role != "whole" for group in fleet.replicas) or fleet.autoscale:
        raise ValueError(
            f"{fleet.name}: a pool is sized for replicas that do prompts and answers, and stay; "
            "leave roles and autoscale out"
        )
    known = [each for each in (context, fleet.context) if each is not None]
    longest = min(known) if known else positions(fleet.replicas[0])
    trace, note = (trace, None) if longest is None else within(trace, longest)
    size = page_tokens or fleet.replicas[0].page_tokens
    paged, everything = by_page(trace, size)
    groups = tuple(msgspec.structs.replace(each, page_tokens=size) for each in fleet.replicas)
    fleet = msgspec.structs.replace(fleet, replicas=groups)
    whole = trace.prompt_tokens + trace.output_tokens
    mean = float(np.mean(trace.prompt_tokens + trace.output_tokens / 2))
    plan = _plan(paged, name, speed=speed, concurrency=concurrency, rate=rate, seed=seed)
    plan.notes += [note] if note else []
    return Question(
        fleet=fleet,
        plan=plan,
        trace=name,
        requests=len(trace),
        longest=int(whole.max()),
        everything=math.ceil(everything * _SPARE),
        held=own_kv_tokens(groups[0]),
        bytes_per_token=kept_bytes_per_token(groups[0], mean),
        seed=seed,
    )


def _plan(
    trace: Trace,
    name: str,
    *,
    speed: float,
    concurrency: int | None,
    rate: float | None,
    seed: int,
) -> Plan:
    nothing = Lengths(kind="uniform", a=1, b=1)
    source = Source(prompts=Sketches(), input_len=nothing, output_len=nothing, seed=seed)
    if trace.sessions is None:
        if concurrency is not None or rate is not None:
            raise ValueError(f"{name} says when requests come; change that with its speed alone")
        return source.replay(trace, speed, warmup=0)
    if (concurrency is None) == (rate is None):
        raise ValueError(
            f"in {name} requests wait for answers; say how many sessions go on at once "
            "(--concurrency 16) or how many begin in a second (--rate 0.05)"
        )
    source.shape = Recorded(trace, speed)
    if concurrency is not None:
        return source.closed(concurrency, len(trace.sessions), warmup=0)
    assert rate is not None
    return source.open(Poisson(rate), count=len(trace.sessions), warmup=0)


def pools(asked: Question, sizes: Sequence[int], *, closer: bool) -> Iterator[Pool]:
    """Each size simulated, the pool that never forgets first; `closer` narrows the knee down."""
    yield (unbounded := measure(asked, asked.everything))
    found = [unbounded]
    for pages in sizes:
        yield (pool := measure(asked, pages))
        found.append(pool)
    for _ in range(HALVINGS if closer else 0):
        found.sort(key=lambda pool: pool.pages)
        at = enough(found)
        between = round(math.sqrt(found[at].pages * found[at - 1].pages)) if at else 0
        if not at or between in (found[at - 1].pages, found[at].pages):
            return
        yield (pool := measure(asked, between))
        found.append(pool)


def measure(asked: Question, pages: int) -> Pool:
    """The load on replicas with so many pages each."""
    tokens = pages * asked.page_tokens
    groups = tuple(
        msgspec.structs.replace(group, kv_tokens=tokens) for group in asked.fleet.replicas
    )
    fleet = msgspec.structs.replace(asked.fleet, replicas=groups)
    result = simulate(fleet, asked.plan, asked.seed)
    figures = result.summary()
    busy_s = [one["busy"] * one["paid_s"] for one in figures["replicas"]]
    short_s = sum(
        one["short_of_pages"] * s for one, s in zip(figures["replicas"], busy_s, strict=True)
    )
    busy = sum(busy_s) / sum(one["paid_s"] for one in figures["replicas"])
    late = (result.end_ns - result.stop_ns) / result.end_ns  # of the time, after the last arrival
    per_token = asked.bytes_per_token
    return Pool(
        pages=pages,
        tokens=tokens,
        gigabytes=None if per_token is None else tokens * per_token / 1e9,
        hit_rate=figures["cached_share"],
        output_tokens_per_s=figures["output_throughput"],
        ttft_p50_s=figures["ttft"]["p50"],
        ttft_p99_s=figures["ttft"]["p99"],
        short_of_pages=short_s / max(sum(busy_s), 1e-9),
        busy=busy,
        saturated=busy > FULL if asked.plan.load.kind != "trace" else late > LATE,
        preemptions=figures["preemptions"],
        finished=figures["requests"]["finished"],
        failed=figures["requests"]["failed"] + figures["requests"]["cancelled"],
    )


def sweep(asked: Question, found: Sequence[Pool], *, interrupted: bool = False) -> Sweep:
    """What the pools say together; the first of them is the one that never forgets."""
    unbounded, ordered = found[0], sorted(found, key=lambda pool: pool.pages)
    own = (asked.held or 0) // asked.page_tokens
    worst = max(ordered, key=lambda pool: pool.failed)
    notes = list(asked.plan.notes)
    if worst.failed:
        notes.append(
            f"{worst.failed:,} requests did not finish with {worst.tokens:,} tokens of KV: hits "
            "are those of the others"
        )
    slots = asked.plan.load.concurrency
    return Sweep(
        trace=asked.trace,
        requests=asked.requests,
        load=f"{slots} sessions at once"
        if slots
        else str(asked.plan.conditions["arrival"]).removesuffix(", 1 times as fast"),
        fleet=asked.fleet.name,
        hardware=" and ".join(map(_named, asked.fleet.replicas)),
        page_tokens=asked.page_tokens,
        bytes_per_token=asked.bytes_per_token,
        longest_request=asked.longest,
        held_tokens=asked.held,
        held=next((pool for pool in ordered if pool.pages == own), None),
        pools=ordered,
        unbounded=unbounded,
        knee=None if interrupted else knee(ordered),
        interrupted=interrupted,
        notes=notes,
    )


def _named(group: Group) -> str:
    """A group of replicas in words."""
    many = "" if group.count == 1 else f"{group.count} replicas of "
    if group.model is None:
        return many + (group.steptime or "a server of given costs")
    devices = group.tp * group.pp * group.dp
    where = f"{devices} x {group.device}" if devices > 1 else group.device
    return f"{many}{group.model} in {group.weights} on {where}"
