"""The small model in this process, behind the engine's own interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock import models
from penstock.engine.llm import LLM
from penstock.engine.model.config import ModelConfig
from penstock.engine.options import EngineOptions
from penstock.prompts.surprise import ASKED, joined, options, windows


class Scorer:
    """Rates the tokens of prompts with one small model.

    A pass costs about its prefill, and the head for every token, which a prefill asks
    for once: of a large vocabulary that is most of it. Raises as `LLM` does.
    """

    def __init__(self, model: str, base: EngineOptions | None = None) -> None:
        vocabulary = ModelConfig.load(models.path(model)).vocab_size
        self.llm = LLM(model, options(vocabulary, base))
        self.tokenizer = self.llm.tokenizer

    @property
    def model(self) -> str:
        """Its name."""
        return self.llm.engine.facts.name

    def surprise(self, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """How surprising each token of each prompt of token ids is, in nats."""
        context = self.llm.engine.facts.max_model_len
        over = [windows(len(prompt), context) if prompt else [] for prompt in prompts]
        asked = [
            list(prompt[window.start : window.end])
            for prompt, some in zip(prompts, over, strict=True)
            for window in some
        ]
        answers = iter(self.llm.generate(asked, ASKED))
        return [
            joined(some, [next(answers).prompt_logprobs for _ in some])
            if some
            else np.zeros(0, np.float32)
            for some in over
        ]
