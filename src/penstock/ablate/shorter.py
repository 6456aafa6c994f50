"""Prompts shortened on their way in, as `penstock compress-prompt` does it."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.prompts.keep import Rule
from penstock.prompts.scorer import Scorer
from penstock.prompts.shorten import kept_ids

# Half of what is neither the beginning nor the end. Segments are small against the text
# that prompts share, so that they share what is left of it too.
RULE = Rule(keep=0.5, first=16, last=32, segment=64)


class Shortener:
    """A small model that rates prompts, with the tokenizer of the one that reads them."""

    def __init__(self, model: str) -> None:
        self._scorer = Scorer(model)

    def __call__(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """What stays of each prompt of token ids."""
        rated = self._scorer.surprise(prompts)
        return [
            kept_ids(self._scorer.tokenizer, prompt, RULE, surprise)
            for prompt, surprise in zip(prompts, rated, strict=True)
        ]
