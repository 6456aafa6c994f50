"""Which tokens of a prompt stay: the rule, and the choice by scores."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.prompts.parts import By, Parts

# By what is chosen. `surprise` needs a model; the others are what it is held against:
# `start`, `end` and `ends` cut the end, the beginning, the middle off.
Way = Literal["surprise", "random", "start", "end", "ends", "stopwords"]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a prompt is shortened; tokens that are protected stay whatever it says.

    `keep` is the share of the others that stays. With `tokens` it is instead as many as make
    the whole prompt so long at most. Raises `ValueError` naming what is out of range.
    """

    keep: float = 0.5
    tokens: int | None = None
    way: Way = "surprise"
    by: By = "line"
    first: int = 16  # tokens at the beginning that are protected
    last: int = 128  # tokens at the end that are: most questions stand there
    # Every so many tokens keep their own share. What stays of a beginning then does not
    # depend on what follows, so prompts that begin alike still do. None: one for all.
    segment: int | None = 256
    seed: int = 0  # of `random`

    @property
    def judged(self) -> bool:
        """Whether a model must read the prompt first; other ways cost nothing."""
        return self.way == "surprise"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(
                f"keep={self.keep} must lie in (0, 1]: the share of tokens that stays."
            )
        for name, least in (("tokens", 1), ("first", 0), ("last", 0), ("segment", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}.")


def protected(parts: Parts, rule: Rule) -> NDArray[np.bool_]:
    """Tokens, bool [n], that stay: special ones, the first and the last, whole parts always."""
    found = parts.special.copy()
    found[: rule.first] = True
    if rule.last:
        found[-rule.last :] = True
    return parts.whole(found)


def kept(
    parts: Parts,
    rule: Rule,
    surprise: NDArray[np.float32] | None = None,
    safe: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Tokens, bool [n], that stay.

    `surprise`, nats [n], is asked for by the way of that name alone. `safe`, bool [n],
    are protected besides those of the rule. Parts are taken by the mean score of their
    tokens, the greatest first, each as long as it fits: never more than the share. What
    a segment leaves of its share is the next one's.
    """
    stay = protected(parts, rule)
    if safe is not None:
        stay |= parts.whole(safe)
    free = np.flatnonzero(~stay)
    if not len(free):
        return stay
    share = rule.keep
    if rule.tokens is not None:
        share = min(1.0, max(0, rule.tokens - int(stay.sum())) / len(free))
    scores = _scores(parts, rule, surprise)
    # A part belongs to the segment that it begins in.
    begins = np.searchsorted(parts.of, parts.of[free])
    owners = begins // (rule.segment or len(parts))
    left = 1e-9
    for owner in np.unique(owners):
        some = free[owners == owner]
        left += share * len(some)
        best = some[_best(parts.of[some], scores[some], left)]
        left -= len(best)
        stay[best] = True
    return stay


def _best(of: NDArray[np.int64], scores: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
    """Tokens of the parts with the greatest mean scores, `budget` at most; `of` is their part."""
    _, part, sizes = np.unique(of, return_inverse=True, return_counts=True)
    means = np.bincount(part, scores) / sizes
    taken = np.zeros(len(sizes), bool)
    for index in np.argsort(-means, kind="stable"):
        if sizes[index] <= budget:
            taken[index] = True
            budget -= sizes[index]
    return taken[part]


def _scores(parts: Parts, rule: Rule, surprise: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """What each token is worth, fp64 [n], by the rule's way."""
    count = len(parts)
    place = np.arange(count, dtype=np.float64)
    chance = np.random.default_rng(rule.seed).random(count)
    match rule.way:
        case "surprise":
            if surprise is None:
                raise ValueError("way=surprise needs the surprise of each token.")
            return surprise.astype(np.float64)
        case "random":
            return chance[parts.of]
        case "start":
            return -place
        case "end":
            return place
        case "ends":
            return np.abs(place - (count - 1) / 2)
        case "stopwords":
            return np.where(parts.stop_words(), 0.0, 1.0) + chance
