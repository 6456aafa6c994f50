"""The changes one can ask `limits --what-if` about: what each does to a point, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from penstock.plan.point import Outcome, Point, accepted, outcome
from penstock.predict.architecture import BYTES
from penstock.predict.ceilings import batches

_DRAFTED = 4  # tokens drafted a step, where somebody speculates


@dataclass(frozen=True, slots=True)
class Change:
    """A change one can ask about: what it does to a point, and how its answer is put in words.

    `size` is taken where none is given, or what `chosen` finds for a point
    (None: there is no such change). `full` starts from as many requests as
    fit, rather than from the point's.
    """

    title: str
    apply: Callable[[Point, str], Point]
    why: Callable[[Point, Point, Outcome, Outcome], str]
    size: str = "2"
    chosen: Callable[[Point], str | None] | None = None
    full: bool = False

    def default(self, point: Point) -> str | None:
        """The size where none is given; None where there is nothing to change."""
        return self.size if self.chosen is None else self.chosen(point)


def _number(size: str, low: float, high: float, what: str) -> float:
    try:
        value = float(size)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"{what}={size} must be a number from {low:g} to {high:g}.")
    return value


def _device(point: Point, field: str, size: str, what: str) -> Point:
    device = point.deployment.device
    factor = _number(size, 0.01, 1000, what)
    scaled = msgspec.structs.replace(device, **{field: getattr(device, field) * factor})
    return replace(point, deployment=msgspec.structs.replace(point.deployment, device=scaled))


def _bandwidth(point: Point, size: str) -> Point:
    return _device(point, "read_bytes_per_s", size, "bandwidth")


def _capacity(point: Point, size: str) -> Point:
    return _device(point, "memory_bytes", size, "capacity")


def _memory(point: Point, size: str) -> Point:
    larger = _device(point, "memory_bytes", size, "memory")
    # The same share of the pool in use as before.
    return replace(larger, requests=max(1, round(point.requests * larger.held / point.held)))


def _weights(point: Point, size: str) -> Point:
    return replace(point, deployment=msgspec.structs.replace(point.deployment, weights=size))


def _kv(point: Point, size: str) -> Point:
    return replace(point, deployment=msgspec.structs.replace(point.deployment, kv=size))


def _batching(point: Point, size: str) -> Point:
    factor = _number(size, 0.001, 1000, "batching")
    return replace(point, requests=max(1, round(point.requests * factor)))


def _speculation(point: Point, size: str) -> Point:
    return replace(point, drafted=_DRAFTED, acceptance=_number(size, 0, 1, "speculation"))


def _requests(point: Point, size: str) -> Point:
    return replace(point, requests=round(point.requests * _number(size, 1, 1e6, "requests")))


def _latency(point: Point, size: str) -> Point:
    """As many requests as still give each user tokens that much sooner; one at least."""
    wanted = outcome(point).user_tokens_per_s / _number(size, 0.01, 1, "latency")
    low, high = 1, point.running  # one is taken whether it is fast enough or not
    while high > low:
        middle = (low + high + 1) // 2
        fast = outcome(replace(point, requests=middle)).user_tokens_per_s >= wanted
        low, high = (middle, high) if fast else (low, middle - 1)
    return replace(point, requests=low)


def _conditions(point: Point, size: str) -> Point:
    return point


def _smaller_weights(point: Point) -> str | None:
    """The next smaller format that the hardware computes in, or int4, which any can unpack."""
    held = BYTES[point.deployment.weights]
    known = point.deployment.device.flops
    order = [*(name for name in ("fp8", "int8", "fp4") if name in known), "int4"]
    return next((name for name in order if BYTES[name] < 0.9 * held), None)


def _smaller_kv(point: Point) -> str | None:
    return "fp8" if BYTES[point.deployment.kv] > 1 else None


def _says_bandwidth(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    return (
        "only the wait for memory changes, for weights and KV; "
        "arithmetic, links and overhead take as long as before"
    )


def _says_capacity(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    room = f"room for {b.held:,} sequences instead of {a.held:,}"
    if before.running == after.running:
        return (
            f"{room}, and as many requests in flight as before ({a.requests:,}): every step "
            "reads and computes the same"
        )
    return (
        f"{room}, and {a.requests:,} requests want it: {after.running:,} run instead of "
        f"{before.running:,}, and it is the batch that changes what a step yields"
    )


def _says_batch(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    said = (
        f"{after.running:,} sequences share each reading of the weights instead of "
        f"{before.running:,}; each user gets {after.user_tokens_per_s:,.1f} tokens/s instead of "
        f"{before.user_tokens_per_s:,.1f}"
    )
    waiting = b.requests - after.running
    return f"{said}; {waiting:,} more wait for room in the KV pool" if waiting > 0 else said


def _says_weights(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    sizes = [p.deployment.model.weight_bytes(p.deployment.weights) / 1e9 for p in (a, b)]
    units = [p.deployment.device.arithmetic(p.deployment.weights) for p in (a, b)]
    said = f"{sizes[1]:,.1f} GB of weights instead of {sizes[0]:,.1f}"
    if units[0] != units[1]:
        said += f", multiplied in {units[1]} instead of {units[0]}"
    return (
        f"{said}; room for {b.held:,} sequences instead of {a.held:,}. "
        "What it costs in quality must be measured"
    )


def _says_kv(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    widths = [BYTES[p.deployment.kv] for p in (a, b)]
    return (
        f"{widths[1] / widths[0]:.2g} x the bytes to keep and to read for each token of context: "
        f"room for {b.held:,} sequences instead of {a.held:,}. "
        "What it costs in quality must be measured"
    )


def _says_speculation(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    gained = accepted(b.acceptance, b.drafted)
    once = "K, V and weights are read once for them"
    if b.deployment.model.is_moe:
        once += ", but each may take experts of its own"
    return (
        f"{b.drafted} drafted tokens yield {gained:.2f} a step for {b.drafted + 1} times the "
        f"arithmetic; {once}. It pays while the arithmetic fits into the wait for memory"
    )


def _says_requests(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    return (
        f"the KV pool holds {a.held:,} sequences, and all of it is taken: {b.requests:,} requests "
        f"get the same tokens/s, and each waits {after.e2e_s:,.1f} s instead of "
        f"{before.e2e_s:,.1f}"
    )


def _says_latency(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    if a.running == 1:
        return (
            f"a user is alone and gets {before.user_tokens_per_s:,.1f} tokens/s: no smaller batch "
            "can make it more; bandwidth, smaller weights, more devices or speculation can"
        )
    speeds = f"{before.user_tokens_per_s:,.1f} to {after.user_tokens_per_s:,.1f} tokens/s"
    if after.running == 1:
        speeds += ", the most it gives anybody,"
    return (
        f"a user goes from {speeds} where {after.running:,} share the hardware "
        f"instead of {before.running:,}: speed for one is paid for by all"
    )


def _says_conditions(a: Point, b: Point, before: Outcome, after: Outcome) -> str:
    seen = [outcome(replace(a, requests=count)) for count in batches(a.held)]
    total = [one.tokens_per_s for one in seen]
    user = [one.user_tokens_per_s for one in seen]
    return (
        f"this replica gives {min(total):,.0f} to {max(total):,.0f} tokens/s, and a user "
        f"{max(user):,.0f} to {min(user):,.0f}, as 1 to {a.held:,} requests are in flight: a "
        "figure without them says nothing, and no more tokens come of it"
    )


CHANGES: dict[str, Change] = {
    "batching": Change("{} x the requests at once", _batching, _says_batch),
    "bandwidth": Change("{} x the memory bandwidth", _bandwidth, _says_bandwidth),
    "speculation": Change(
        "speculation, {} of drafts accepted", _speculation, _says_speculation, "0.7"
    ),
    "weights": Change("weights in {}", _weights, _says_weights, "fp8", _smaller_weights),
    "kv": Change("KV in {}", _kv, _says_kv, "fp8", _smaller_kv),
    "memory": Change("{} x the memory, filled with requests", _memory, _says_batch),
    "capacity": Change("{} x the memory alone", _capacity, _says_capacity),
    "latency": Change("{} x the time per token", _latency, _says_latency, "0.8"),
    "requests": Change("{} x the requests it can hold", _requests, _says_requests, "10", full=True),
    "conditions": Change("the figure without its conditions", _conditions, _says_conditions, ""),
}
