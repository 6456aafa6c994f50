"""How surprising a small model finds each token of a prompt: -ln p(token | the tokens before).

This is the self-information of Selective Context (Li et al., EMNLP 2023) and the token
perplexity of LLMLingua (Jiang et al., EMNLP 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams, TokenLogprob

# What an engine is asked of each window. It samples one token at least.
ASKED = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)

# Tokens that are read at once at most: attention to more costs time and changes little.
_WINDOW = 2048
# Logits of one step, in bytes: larger allocations go back to the system, and getting
# them anew, page by page, takes as long as computing what they hold.
_LOGITS = 24 << 20


class Window(NamedTuple):
    """Tokens `start:end` of a prompt, of which those from `new` on were in none before."""

    start: int
    new: int
    end: int


def windows(tokens: int, context: int) -> list[Window]:
    """Windows over a prompt for a model that holds `context` tokens, its one output included.

    Each but the first begins a quarter of its length before what is new, so that
    nothing is judged without what stands before it. Where a window lies depends on what
    is before it alone.
    """
    size = min(_WINDOW, context - 1)
    step = max(1, size - size // 4)
    found = [Window(0, 0, min(size, tokens))]
    while found[-1].end < tokens:
        before = found[-1]
        start = before.start + step
        found.append(Window(start, before.end, min(start + size, tokens)))
    return found


def joined(
    over: Sequence[Window], answers: Sequence[Sequence[TokenLogprob | None] | None]
) -> NDArray[np.float32]:
    """Surprise in nats, fp32 [tokens], from the prompt log probabilities of each window.

    The very first token, which nothing is known of, counts as expected.
    """
    found = np.zeros(over[-1].end, np.float32)
    for window, answer in zip(over, answers, strict=True):
        if answer is None:
            raise RuntimeError("the engine gave no log probabilities of the prompt")
        rated = [0.0 if one is None else -one.logprob for one in answer]
        found[window.new : window.end] = rated[window.new - window.start :]
    return found


def options(vocabulary: int, base: EngineOptions | None = None) -> EngineOptions:
    """How an engine that only rates prompts is to run, given the size of its vocabulary.

    Of `base` it has what says how to compute: precision, device, threads.
    """
    base = base or EngineOptions()
    step = min(512, max(8, _LOGITS // (4 * vocabulary) // 8 * 8))
    return EngineOptions(
        dtype=base.dtype,
        weights=base.weights,
        kernels=base.kernels,
        device=base.device,
        threads=base.threads,
        max_running=4,
        max_step_tokens=step,
        kv_tokens=4 * (_WINDOW + 64),
        max_waiting=base.max_waiting,
        max_waiting_tokens=base.max_waiting_tokens,
    )
