"""Log probabilities of tokens, as the model itself gave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penstock.engine.request import TokenLogprob

# Log probability, fp32 [R], and rank, int64 [R], of each row's token: of fp32 logits
# [R, vocab] and int64 tokens [R].
Rate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def score(
    logits: Tensor, tokens: Sequence[int], tops: Sequence[int], rate: Rate
) -> list[TokenLogprob]:
    """Rate each row's token under fp32 `logits` [R, vocab], and list its `tops` likeliest ones.

    The rank of a token is one more than the number of likelier ones.
    """
    chosen = torch.tensor(tokens, device=logits.device)
    logprobs, ranks = rate(logits, chosen)
    likeliest = [list[tuple[int, float]]()] * len(tokens)
    if most := max(tops):
        # The normalizer is what a token's log probability lacks of its logit.
        own = logits.gather(1, chosen[:, None])
        values, ids = logits.topk(most, dim=-1)
        values += logprobs[:, None] - own
        likeliest = [
            list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)
        ]
    return [
        TokenLogprob(logprob, rank, best[:top])
        for logprob, rank, best, top in zip(
            logprobs.tolist(), ranks.tolist(), likeliest, tops, strict=True
        )
    ]


def rate_plainly(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability, fp32 [R], and rank, int64 [R], of each row's token."""
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, tokens[:, None])
    return chosen[:, 0], (logprobs > chosen).sum(-1) + 1
