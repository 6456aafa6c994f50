"""Where more KV memory stops helping, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock.record.sentences import number

# Figures are as good as those of a pool that never forgets if throughput, and median and 99th
# percentile of the time to the first token, are as near as this.
THROUGHPUT, WAIT = 0.01, 0.05
COMPUTED = 0.02  # every reusable prefix stays: prompt tokens computed beyond those of that pool
SHORT = 0.01  # share of the busy time in which requests may wait for pages alone

Reason = Literal["prefixes", "batch", "compute", "load"]


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's size on each replica, and what it gave.

    `hit_rate` is the share of prompt tokens found in the cache, of requests that finished.
    `short_of_pages` is the share of the busy time in which a request waited though it
    lacked nothing but pages. TTFT counts from when a request was wanted.
    """

    pages: int
    tokens: int
    gigabytes: float | None
    hit_rate: float
    output_tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    short_of_pages: float
    busy: float
    saturated: bool  # more was asked than could be computed
    preemptions: int
    finished: int
    failed: int

    @property
    def size(self) -> str:
        """In GB, or in tokens where the model is not known."""
        if self.gigabytes is None:
            return f"{number(self.tokens)} tokens"
        return f"{number(self.gigabytes)} GB"


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest pool that is as good as one that never forgets, as are all larger ones.

    It keeps every reusable prefix while hardly a request waits for pages: what differs then is
    who happened to meet whom. Or its figures are as good though it does not. `below` is the
    largest that falls short, None if none does. `complete` is the smallest that keeps every
    reusable prefix: beyond the knee, that only saves work.
    """

    at: Pool
    below: Pool | None
    complete: Pool
    reason: Reason
    says: str


def enough(pools: Sequence[Pool]) -> int:
    """Index of the knee among pools in order of size, the last of which never forgets."""
    at = len(pools) - 1
    while at and _as_good(pools[at - 1], pools[-1]):
        at -= 1
    return at


def knee(pools: Sequence[Pool]) -> Knee:
    """Where more memory stops helping, and why there. Pools as for `enough`."""
    unbounded = pools[-1]
    at = enough(pools)
    whole = len(pools) - 1
    while whole and _complete(pools[whole - 1], unbounded):
        whole -= 1
    below = pools[at - 1] if at else None
    reason = _reason(pools[at], below, unbounded)
    return Knee(
        at=pools[at],
        below=below,
        complete=pools[whole],
        reason=reason,
        says=_says(reason, pools[at], unbounded),
    )


def _as_good(pool: Pool, unbounded: Pool) -> bool:
    if _complete(pool, unbounded) and pool.short_of_pages <= max(SHORT, unbounded.short_of_pages):
        return True
    waits = (
        (pool.ttft_p50_s, unbounded.ttft_p50_s),
        (pool.ttft_p99_s, unbounded.ttft_p99_s),
    )
    return (
        pool.output_tokens_per_s >= (1 - THROUGHPUT) * unbounded.output_tokens_per_s
        and pool.failed <= unbounded.failed
        and all((a or 0.0) <= (1 + WAIT) * (b or 0.0) for a, b in waits)
    )


def _complete(pool: Pool, unbounded: Pool) -> bool:
    return 1 - pool.hit_rate <= (1 + COMPUTED) * (1 - unbounded.hit_rate)


def _reason(pool: Pool, below: Pool | None, unbounded: Pool) -> Reason:
    """What ceased to bind between `below` and the knee, or what binds instead."""
    if _complete(pool, unbounded) and (below is None or not _complete(below, unbounded)):
        return "prefixes"
    if below is not None and below.short_of_pages > SHORT >= pool.short_of_pages:
        return "batch"
    if pool.saturated:
        return "compute"
    return "prefixes" if _complete(pool, unbounded) else "load"


def _says(reason: Reason, pool: Pool, unbounded: Pool) -> str:
    missed = unbounded.hit_rate - pool.hit_rate
    if reason == "prefixes":
        return (
            f"every reusable prefix stays: {pool.hit_rate:.1%} of prompt tokens are hits, and "
            f"{unbounded.hit_rate:.1%} in a pool that never forgets"
        )
    if reason == "batch":
        return (
            "KV limits the batch no longer: requests wait for pages alone "
            f"{pool.short_of_pages:.1%} of the busy time"
        )
    left = f"the {missed:.1%} of prompt tokens that more memory would find"
    if reason == "compute":
        return f"computing binds, more is asked than it can do, and {left} hardly add to that"
    return f"the load is served, and {left} would save work, but hardly change throughput or waits"
