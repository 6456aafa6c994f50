"""What a request does to its logits before a token is chosen: penalties, bias, bans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.request import SamplingParams


class Shaping:
    """One sequence's changes to its logits: `x / factor` (x < 0: `x * factor`), then `+ bias`.

    Only tokens that have been seen, or are biased by name, differ from factor 1
    and bias 0; they are kept as growing arrays, so that a step costs as much as
    there are of them, not as the vocabulary has tokens.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], enders: frozenset[int]
    ) -> None:
        self._params = params
        self._slot: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._factor = np.ones(64, np.float32)
        self._bias = np.zeros(64, np.float32)
        self._counted: set[int] = set()
        for token, bias in params.logit_bias.items():
            at = self._at(token)  # may replace the arrays
            self._bias[at] += bias
        if params.repetition_penalty != 1.0:
            for token in prompt:
                at = self._at(token)
                self._factor[at] = params.repetition_penalty
        self._banned = np.array(sorted(enders), np.int64)
        self._free_after = params.min_tokens
        self._generated = 0

    @staticmethod
    def wanted(params: SamplingParams) -> bool:
        """Whether `params` change logits at all."""
        return bool(
            params.logit_bias
            or params.min_tokens
            or params.repetition_penalty != 1.0
            or params.presence_penalty
            or params.frequency_penalty
        )

    def took(self, token: int) -> None:
        """Count a token of the output."""
        self._generated += 1
        params = self._params
        at = self._at(token)
        self._factor[at] = params.repetition_penalty
        self._bias[at] -= params.frequency_penalty
        if token not in self._counted:
            self._counted.add(token)
            self._bias[at] -= params.presence_penalty

    @property
    def changes(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Token ids, factors and biases."""
        count = len(self._slot)
        return self._ids[:count], self._factor[:count], self._bias[:count]

    @property
    def banned(self) -> NDArray[np.int64]:
        """Tokens that may not come yet: those that would end it before `min_tokens`."""
        return self._banned if self._generated < self._free_after else self._banned[:0]

    def _at(self, token: int) -> int:
        slot = self._slot.setdefault(token, len(self._slot))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._factor = np.concatenate([self._factor, np.ones_like(self._factor)])
            self._bias = np.concatenate([self._bias, np.zeros_like(self._bias)])
        self._ids[slot] = token
        return slot


def shape(logits: Tensor, rows: Sequence[tuple[int, Shaping]]) -> None:
    """Change rows of fp32 `logits` [L, vocab] in place; `rows` pairs a row with its shaping."""
    vocabulary = logits.shape[-1]
    flat = logits.view(-1)
    changes = [shaping.changes for _, shaping in rows]
    starts = np.repeat([row * vocabulary for row, _ in rows], [len(ids) for ids, *_ in changes])
    where, factor, bias = (
        torch.from_numpy(np.concatenate([change[i] for change in changes])).to(logits.device)
        for i in range(3)
    )
    where += torch.from_numpy(starts).to(logits.device)
    x = flat[where]
    flat[where] = torch.where(x > 0, x / factor, x * factor) + bias
    banned = np.concatenate([row * vocabulary + shaping.banned for row, shaping in rows])
    if len(banned):
        flat[torch.from_numpy(banned).to(logits.device)] = float("-inf")
