"""From a step's logits to the tokens that its sequences take."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.beam import BeamSearch
from penstock.engine.generation import Generation
from penstock.engine.guided import Guided
from penstock.engine.model.decoder import Kernels
from penstock.engine.sampling import SamplingRows, sample
from penstock.engine.scores import score
from penstock.engine.shaping import shape


def pick(
    logits: Tensor,
    sampling: SamplingRows,
    owners: list[tuple[int, Generation]],
    guided: Guided,
    kernels: Kernels,
) -> list[int]:
    """Append to each owner's `tokens` what it takes; return how many that are, for each.

    `owners` pairs a row of fp32 `logits` [L, vocab] with whose it is: the logits
    after its last known token, and in the rows that follow, after each of its
    guesses. A guess is right if it is the very token that is drawn there. One
    row after the last right guess may be drawn from too, so that at least one
    token is taken. Noise depends on seed and position alone: the text is the one
    that would have come without guesses.

    `guided` has begun the masks of the owners' first rows.
    """
    asking = guided.asking
    choose = _one_by_one if any(owner.guess for _, owner in asking) else _choose
    tokens = choose(logits, sampling, asking, guided, kernels)
    drawn = tokens.tolist()
    taken = []
    for row, owner in owners:
        if not owner.guess:
            owner.tokens.append(drawn[row])
            taken.append(1)
            continue
        count = 1
        while (
            count <= len(owner.guess)
            and (token := drawn[row + count - 1]) == owner.guess[count - 1]
            and token not in owner.enders
            and drawn[row + count] >= 0
        ):
            count += 1
        owner.tokens += drawn[row : row + count]
        taken.append(count)
    return taken


def _one_by_one(
    logits: Tensor,
    sampling: SamplingRows,
    asking: list[tuple[int, Generation]],
    guided: Guided,
    kernels: Kernels,
) -> NDArray[np.int64]:
    """As `_choose`, where what a row asks for depends on the token before it.

    A row that is not reached, since a guess before it was wrong or ended the
    sequence, is -1.
    """
    later = [(row, owner) for row, owner in asking if owner.guess]
    rows = np.array([row + i for row, owner in later for i in range(1, len(owner.guess) + 1)])
    kept = logits[torch.from_numpy(rows).to(logits.device)]  # drawing may overwrite them
    place = {int(row): i for i, row in enumerate(rows)}
    tokens = _choose(logits, sampling, asking, guided, kernels)
    tokens[rows] = -1
    depth = 0
    while later := [
        (row, owner)
        for row, owner in later
        if depth < len(owner.guess)
        and int(tokens[row + depth]) == owner.guess[depth]
        and owner.guess[depth] not in owner.enders
        and not (owner.over or owner.failure)
    ]:
        depth += 1
        at = np.array([row + depth for row, _ in later])
        again = [(i, owner) for i, (_, owner) in enumerate(later)]
        tokens[at] = _choose(
            kept[[place[int(row)] for row in at]],
            sampling.take(at),
            again,
            Guided(guided.grammars, again),
            kernels,
        )
    return tokens


def _choose(
    logits: Tensor,
    sampling: SamplingRows,
    asking: list[tuple[int, Generation]],
    guided: Guided,
    kernels: Kernels,
) -> NDArray[np.int64]:
    """Choose a token for each row of `logits`.

    On the way it does what the `asking` rows want: shapes and masks their
    logits, takes a step of their search, notes their log probabilities.
    """
    if not asking:
        return sample(logits, sampling, kernels.draw).numpy(force=True)
    noted = [(row, g) for row, g in asking if g.logprobs is not None]
    plainly = logits[[row for row, _ in noted]]  # a copy, before it is shaped
    shaped = [(row, g.shaping) for row, g in asking if g.shaping is not None]
    if shaped:
        shape(logits, shaped)
    guided.mask(logits)
    tokens = sample(logits, sampling, kernels.draw).numpy(force=True)
    guided.accept(tokens)
    searches: dict[BeamSearch, list[tuple[int, Generation]]] = {}
    for row, generation in asking:
        if generation.search is not None:
            searches.setdefault(generation.search, []).append((row, generation))
    for search, beams in searches.items():
        _search(search, sorted(beams, key=lambda beam: beam[1].index), logits, tokens)
    if noted:
        tops = [g.request.params.logprobs or 0 for _, g in noted]
        views = score(plainly, tokens[[row for row, _ in noted]].tolist(), tops, kernels.rate)
        for (_, generation), view in zip(noted, views, strict=True):
            assert generation.logprobs is not None
            generation.logprobs.append(view)
    for row, shaping in shaped:
        shaping.took(int(tokens[row]))
    return tokens


def _search(
    search: BeamSearch,
    beams: list[tuple[int, Generation]],
    logits: Tensor,
    tokens: NDArray[np.int64],
) -> None:
    """Take one step of a search; write what its beams take into `tokens` and their own lists."""
    rows = [row for row, _ in beams]
    search.step(logits[rows].log_softmax(-1))
    before = [generation.tokens for _, generation in beams]
    for (row, generation), (parent, token) in zip(beams, search.moves, strict=True):
        generation.tokens = list(before[parent])
        tokens[row] = token
