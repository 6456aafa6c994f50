"""Errors that speculative decoding could have, each in place of `pick`."""

from __future__ import annotations

from typing import Any

from penstock.engine.generation import Generation
from penstock.engine.pick import pick
from penstock.engine.sampling import SamplingRows

Owners = list[tuple[int, Generation]]


def no_resample(logits: Any, sampling: SamplingRows, owners: Owners, *rest: Any) -> list[int]:
    """A wrong guess stays, instead of what was drawn in its place."""
    taken = pick(logits, sampling, owners, *rest)
    for (_, owner), count in zip(owners, taken, strict=True):
        if count <= len(owner.guess):
            owner.tokens[-1] = owner.guess[count - 1]
    return taken


def bonus_off_by_one(logits: Any, sampling: SamplingRows, owners: Owners, *rest: Any) -> list[int]:
    """The token after all guesses is drawn from the logits before it."""
    for row, owner in owners:
        if owner.guess:
            logits[row + len(owner.guess)] = logits[row + len(owner.guess) - 1]
    return pick(logits, sampling, owners, *rest)


def same_noise_again(logits: Any, sampling: SamplingRows, owners: Owners, *rest: Any) -> list[int]:
    """Every token of a step is drawn with the noise of its first."""
    for row, owner in owners:
        sampling.position[row : row + 1 + len(owner.guess)] = sampling.position[row]
    return pick(logits, sampling, owners, *rest)


def accepted_too_often(
    logits: Any, sampling: SamplingRows, owners: Owners, *rest: Any
) -> list[int]:
    """A guess counts as right if it comes second."""
    for row, owner in owners:
        for i, guess in enumerate(owner.guess):
            if guess in logits[row + i].topk(2).indices.tolist():
                logits[row + i, guess] = 100.0
    return pick(logits, sampling, owners, *rest)
