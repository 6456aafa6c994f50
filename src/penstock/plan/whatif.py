"""What would change a replica's throughput, and what would not: with sign and size.

Each answer is the difference between two operating points, reckoned the same
way: so many requests in flight, of which as many run as the KV pool holds,
their prompts computed in turn with everybody's next tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import msgspec

from penstock.plan.changes import CHANGES, Change
from penstock.plan.limits import check_lengths
from penstock.plan.point import Outcome, Point, best_outcome, outcome

Effect = Literal["raises", "lowers", "leaves"]
_SAME = 0.005  # a smaller change of throughput is none


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a change does to throughput.

    `throughput` and `user` are relative changes of all tokens/s and of one
    user's, with default efficiencies; `at_ceiling` is that of throughput if
    both points ran at the hardware's limit. `effect` says the sign in a word.
    """

    change: str
    effect: Effect
    throughput: float
    at_ceiling: float
    user: float
    before: Outcome
    after: Outcome
    why: str


def what_if(point: Point, asked: Mapping[str, str] | None = None) -> list[Prediction]:
    """Predict the changes asked for (name to size), or all with their default sizes.

    Raises `ValueError` for an unknown change, a size that cannot be, or a
    point or a change of it that does not fit.
    """
    check_lengths(point.deployment, point.prompt, point.output)
    if point.requests < 1:
        raise ValueError(f"requests={point.requests} must be at least 1.")
    if asked is None:
        sizes = {name: change.default(point) for name, change in CHANGES.items()}
        asked = {name: size for name, size in sizes.items() if size is not None}
    if unknown := [name for name in asked if name not in CHANGES]:
        raise ValueError(f"{unknown[0]!r} is no change known here; take {', '.join(CHANGES)}.")
    return [predict(point, CHANGES[name], size) for name, size in asked.items()]


def asked_for(texts: Iterable[str]) -> dict[str, str]:
    """Changes and sizes, each written as `bandwidth=2`. Raises `ValueError` for what is not."""
    asked = {}
    for text in texts:
        name, given, size = text.partition("=")
        if name in CHANGES and not given and name != "conditions":
            raise ValueError(f"{text!r} lacks a size; write {name}={CHANGES[name].size}.")
        asked[name] = size
    return asked


def predict(point: Point, change: Change, size: str) -> Prediction:
    """What one change of this size does. Raises `ValueError` as `what_if`."""
    start = replace(point, requests=point.held) if change.full else point
    goal = change.apply(start, size)
    before, after = outcome(start), outcome(goal)
    least, most = best_outcome(start), best_outcome(goal)
    gain = after.tokens_per_s / before.tokens_per_s - 1
    return Prediction(
        change=change.title.format(size),
        effect="leaves" if abs(gain) < _SAME else "raises" if gain > 0 else "lowers",
        throughput=gain,
        at_ceiling=most.tokens_per_s / least.tokens_per_s - 1,
        user=after.user_tokens_per_s / before.user_tokens_per_s - 1,
        before=before,
        after=after,
        why=change.why(start, goal, before, after),
    )
