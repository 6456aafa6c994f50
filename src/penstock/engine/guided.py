"""The rows of one step that follow a grammar."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine import grammar
from penstock.engine.generation import Generation
from penstock.engine.grammar import Grammars, Matcher


class Guided:
    """Computes their masks from the moment it is made, while the model computes the logits.

    A sequence whose grammar cannot be followed (any further) gets a `failure`;
    the others do not notice. `asking` are those that want more than a draw from their row.
    """

    def __init__(self, grammars: Grammars, asking: list[tuple[int, Generation]]) -> None:
        self.grammars = grammars
        self.asking = asking
        self._rows: list[tuple[int, Generation, Matcher]] = []
        for row, generation in asking:
            if generation.guide is not None:
                try:
                    self._rows.append((row, generation, generation.guide.result()))
                except ValueError as error:
                    generation.failure = str(error)
        matchers = [matcher for _, _, matcher in self._rows]
        self._masks: Future[NDArray[np.int32]] | None = (
            grammars.masks(matchers) if matchers else None
        )

    def mask(self, logits: Tensor) -> None:
        """Forbid, in place, what the grammars do not allow next."""
        if self._masks is not None:
            grammar.apply(logits, [row for row, _, _ in self._rows], self._masks.result())

    def accept(self, tokens: NDArray[np.int64]) -> None:
        """Follow each grammar by the token its row chose."""
        chosen = tokens.tolist() if self._rows else []
        for row, generation, matcher in self._rows:
            matcher.accept(chosen[row])
            if matcher.stopped:
                generation.failure = matcher.error
                generation.over = matcher.complete
