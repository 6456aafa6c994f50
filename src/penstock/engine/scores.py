"""Log probabilities of tokens, as the model itself gave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.engine.request import TokenLogprob


def score(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Rate each row's token under fp32 `logits` [R, vocab], and list its `tops` likeliest ones.

    The rank of a token is one more than the number of likelier ones.
    """
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])
    ranks = (logprobs > chosen).sum(-1) + 1
    values, ids = logprobs.topk(max(tops), dim=-1)
    return [
        TokenLogprob(logprob, rank, list(zip(ids_, values_, strict=True))[:top])
        for logprob, rank, ids_, values_, top in zip(
            chosen[:, 0].tolist(), ranks.tolist(), ids.tolist(), values.tolist(), tops, strict=True
        )
    ]
