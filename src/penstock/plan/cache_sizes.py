"""Which sizes of a KV pool to try, and how a user writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock.plan.cache import Question
from penstock.workload.traces import Trace

PAGE_TOKENS = 512  # unless told: small pages take longer to simulate and find nearly the same
POINTS = 10  # sizes of a grid, the pool that never forgets among them
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def page_for(trace: Trace) -> int:
    """Tokens of a page that go well with a trace's blocks: `PAGE_TOKENS` or a few more."""
    return max(trace.block_tokens, PAGE_TOKENS // max(trace.block_tokens, 1) * trace.block_tokens)


def grid(asked: Question, points: int = POINTS) -> list[int]:
    """Pages: from what holds the longest request up to everything, in equal factors.

    What the replica holds by itself is among them, where that lies between.
    """
    low, high = asked.least, asked.everything
    sizes = {round(size) for size in np.geomspace(low, high, points)[:-1].tolist()}
    own = (asked.held or 0) // asked.page_tokens
    return sorted(sizes | ({own} if low <= own < high else set()))


def checked(asked: Question, tokens: Sequence[int]) -> list[int]:
    """Sizes in tokens as pages, ascending. Raises `ValueError` for one that is too small."""
    size = asked.page_tokens
    if (least := min(tokens)) // size < asked.least:
        per_token, enough_tokens = asked.bytes_per_token, asked.least * size
        gb = "" if per_token is None else f" ({enough_tokens * per_token / 1e9:,.3g} GB)"
        raise ValueError(
            f"a pool of {least:,} tokens cannot hold the longest request, {asked.longest:,} tokens "
            f"of prompt and answer; take at least {enough_tokens:,} tokens{gb}, or leave "
            "longer requests out with --context"
        )
    return sorted({each // size for each in tokens})


def tokens_of(text: str, bytes_per_token: float | None) -> int:
    """A pool's size as written, in tokens: `200000`, `200k`, `2M`, `40GB` or `1.5TB`.

    Raises `ValueError` for what is no size, and for bytes where a token's are not known.
    """
    number = text.strip().rstrip("kMGTB")
    unit = text.strip()[len(number) :]
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 1 <= value < math.inf:
        raise ValueError(f"{text!r} is no size; write tokens (200k, 2M) or bytes (40GB, 1.5TB)")
    if not unit.endswith("B"):
        return int(value)
    if bytes_per_token is None:
        raise ValueError(
            f"{text!r} are bytes, and how many of them a token takes is not known; name the "
            "--model, or give tokens"
        )
    return int(value / bytes_per_token)
