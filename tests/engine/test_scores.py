"""Log probabilities in C against PyTorch's, the reference."""

from __future__ import annotations

import pytest
import torch

from penstock.engine import scores
from penstock.engine.kernels.native import library
from penstock.engine.kernels.native.kernels import NativeKernels


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 100, 4096, 151_936])
def test_c_rates_tokens_as_pytorch_does(vocabulary: int) -> None:
    try:
        kernels = NativeKernels("bf16")
    except library.NotHere as why:
        pytest.skip(str(why))
    random = torch.Generator().manual_seed(vocabulary)
    logits = 8 * torch.randn(9, vocabulary, generator=random)
    logits[0, 0] = -torch.inf  # a mask
    logits[1] = 3.0  # all alike
    logits[2] += 1e4
    tokens = torch.randint(vocabulary, (9,), generator=random)
    tokens[3] = logits[3].argmax()
    logprobs, ranks = scores.rate_plainly(logits, tokens)
    ours, our_ranks = kernels.rate(logits, tokens)
    torch.testing.assert_close(ours[1:], logprobs[1:], rtol=1e-5, atol=2e-5, equal_nan=True)
    assert our_ranks[1:].tolist() == ranks[1:].tolist()
    assert our_ranks[3] == 1


def test_the_likeliest_come_with_their_log_probabilities() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 0.0, 5.0, 4.0]])
    first, second = scores.score(logits, [2, 2], [3, 0], scores.rate_plainly)
    expected = logits.log_softmax(-1)
    assert first.logprob == pytest.approx(expected[0, 2].item(), abs=1e-6)
    assert first.rank == 2
    assert [token for token, _ in first.top] == [1, 2, 0]
    assert [p for _, p in first.top] == pytest.approx(expected[0, [1, 2, 0]].tolist(), abs=1e-6)
    assert (second.rank, second.top) == (1, [])
