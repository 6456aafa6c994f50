"""When shortening a prompt pays: in seconds, and at an API's prices."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.prompts.prefill import Prefill
from penstock.record.price import Price

LONGEST = 32_768  # tokens up to which a break-even is looked for


class Times(msgspec.Struct, frozen=True):
    """One prompt: seconds of its prefill as it is, of rating it, of the shorter prefill."""

    full_s: float
    score_s: float
    short_s: float

    @property
    def saved_s(self) -> float:
        """What shortening saves in all; below zero it costs."""
        return self.full_s - self.score_s - self.short_s


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Where first rating, then a shorter prefill, takes as long as the whole prompt's.

    `most_kept` is the share of tokens below which this prompt gains, `least_tokens` the
    prompt from which on this share does. None: none does, up to `LONGEST` tokens.
    """

    times: Times
    most_kept: float | None
    least_tokens: int | None


def break_even(target: Prefill, score: Prefill, tokens: int, kept: int) -> BreakEven:
    """Predict for a prompt of `tokens`, of which `kept` are sent on."""
    return BreakEven(
        times=Times(target(tokens), score(tokens), target(kept)),
        most_kept=most_kept(target, score, tokens),
        least_tokens=least_tokens(target, score, kept / tokens),
    )


def most_kept(target: Prefill, score: Prefill, tokens: int) -> float | None:
    """The share kept at which T(n) = S(n) + T(share n), T a prefill and S rating."""
    room = target(tokens) - score(tokens)
    if room <= target(1):
        return None
    return _crossing(lambda kept: target(round(kept)) - room, 1, tokens) / tokens


def least_tokens(
    target: Prefill, score: Prefill, share: float, longest: int = LONGEST
) -> int | None:
    """The prompt from which on T(n) > S(n) + T(share n): below it, or a longer one, loses."""

    def saved(tokens: float) -> float:
        count = round(tokens)
        return target(count) - score(count) - target(max(1, round(share * count)))

    lengths = np.unique(np.geomspace(1, longest, 200).astype(int))
    losing = [int(n) for n in lengths if saved(n) <= 0]
    if not losing:
        return 1
    if losing[-1] == lengths[-1]:
        return None
    after = int(lengths[np.searchsorted(lengths, losing[-1]) + 1])
    return round(_crossing(saved, losing[-1], after))


def _crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below zero to above is zero, by halving."""
    while high - low > 0.5:
        middle = (low + high) / 2
        if rising(middle) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What the prompt costs, a million times over, in the price's currency.

    Of `tokens` the first `cached` would come from the API's cache if nothing were
    changed. Shortened as a whole it is another prompt from the first change on, before
    which the cache has `held` tokens; with a share above `most_kept` it costs more.
    `rest` shortens only what follows the cached part; in `again` the cached part was
    shortened before in just this way, so that is what the cache holds.
    """

    tokens: int
    kept: int
    cached: int
    held: int
    most_kept: float
    whole: float  # sent as it is
    shortened: float
    rest: float
    again: float


def bill(price: Price, stays: NDArray[np.bool_], cached: int) -> Bill:
    """Hold a shortened prompt against the whole one, at prices of tokens; `stays`, [n], is which.

    Raises `ValueError` for a price by the hour or without one for input, and for more
    cached tokens than there are.
    """
    if price.per_hour is not None or not price.input:
        raise ValueError(
            f"the price {price} says nothing of prompt tokens; write in=...,cached=...,out=..."
        )
    tokens = len(stays)
    if not 0 <= cached <= tokens:
        raise ValueError(f"cached={cached} must lie between 0 and the prompt's {tokens} tokens.")
    kept, early = int(stays.sum()), int(stays[:cached].sum())
    held = int(np.logical_and.accumulate(stays[:cached]).sum())

    def cost(new: float, known: int) -> float:
        return new * price.input + known * price.cached

    whole = cost(tokens - cached, cached)
    return Bill(
        tokens=tokens,
        kept=kept,
        cached=cached,
        held=held,
        # Held tokens and so many new ones cost as much as the whole.
        most_kept=(held + (whole - cost(0, held)) / price.input) / tokens,
        whole=whole,
        shortened=cost(kept - held, held),
        rest=cost(kept - early, cached),
        again=cost(kept - early, early),
    )
