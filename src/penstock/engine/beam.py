"""Beam search: which continuations of which beams live on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from penstock.engine.request import Beam, FinishReason


@dataclass(slots=True, frozen=True)
class Hypothesis:
    """A finished beam: its output, and sum of log p / length ** length_penalty."""

    tokens: list[int]
    score: float
    reason: FinishReason


class BeamSearch:
    """One request's search over `width` beams in lockstep.

    Each step rates every continuation of every beam by the sum of its log
    probabilities and goes through the best of them in order. Those that end a
    sequence, by a stop token or at the limit, are finished, if they are among
    the first `width`; of the others the first `width` live on. Choices, scores and
    the rules for stopping early are those of transformers 5.
    """

    def __init__(self, beam: Beam, prompt: list[int], limit: int, enders: frozenset[int]) -> None:
        self.width = beam.width
        self.done = False
        self.finished: list[Hypothesis] = []  # best first, at most `width`
        self.moves: list[tuple[int, int]] = []  # of the last step: parent and token of each beam
        self._beam = beam
        self._outputs: list[list[int]] = [[] for _ in range(beam.width)]
        # The beams begin alike: only the first one's continuations count.
        self._scores = [0.0] + [-math.inf] * (beam.width - 1)
        self._longest = limit - len(prompt)
        self._enders = enders
        self._keep = max(2, 1 + len(enders)) * beam.width

    def step(self, logprobs: Tensor) -> None:
        """Take log probabilities [width, vocab] of the next token of each beam, and move on."""
        length = len(self._outputs[0]) + 1
        totals = logprobs + logprobs.new_tensor(self._scores)[:, None]
        best, at = totals.flatten().topk(min(self._keep, totals.numel()))
        going: list[tuple[float, int, int]] = []
        for rank, (total, place) in enumerate(zip(best.tolist(), at.tolist(), strict=True)):
            parent, token = divmod(place, logprobs.shape[-1])
            ends = token in self._enders
            if ends or length == self._longest:
                if rank < self.width:
                    self._finish([*self._outputs[parent], token], total, ends)
            elif len(going) < self.width:
                going.append((total, parent, token))
        if not going or self._settled(going[0][0], length):
            self.done = True
            self.moves = [(beam, 0) for beam in range(self.width)]  # nobody reads their tokens
            return
        self._scores = [total for total, _, _ in going]
        self._outputs = [[*self._outputs[parent], token] for _, parent, token in going]
        self.moves = [(parent, token) for _, parent, token in going]

    def _finish(self, tokens: list[int], total: float, ends: bool) -> None:
        score = total / len(tokens) ** self._beam.length_penalty
        self.finished.append(Hypothesis(tokens, score, "stop" if ends else "length"))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]

    def _settled(self, best_total: float, length: int) -> bool:
        """Whether no beam that lives is expected to do better than those that have finished."""
        if len(self.finished) < self.width:
            return False
        penalty, early = self._beam.length_penalty, self._beam.early_stopping
        if early is True:
            return True
        # A total only falls, but divided by a growing length it may rise: "never"
        # grants it the longest possible one.
        reach = self._longest if early == "never" and penalty > 0 else length
        return bool(best_total / reach**penalty <= self.finished[-1].score)
