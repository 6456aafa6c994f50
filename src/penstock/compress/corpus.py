"""What is learnt and measured on: the standard library's source, and generated doctests.

It lies on every machine that runs Python. The embedded models were trained on its
train split, never on its held-out one; what another model was trained on is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from penstock.compress.checkpoint import Checkpoint
from penstock.engine.model.tokenizer import coder
from penstock.workload import doctests, stdlib

# Share of the rows of a batch. Tests are many and repeat themselves: a taste of them
# is enough. The doctests are what quality is counted by, and arithmetic is hard.
MIX = {"library": 0.55, "tests": 0.15, "doctests": 0.30}

_GOLDEN = (5**0.5 - 1) / 2
_CHARACTERS = 6  # of a token, at most on average: so much text is surely enough


def training_texts() -> dict[str, list[str]]:
    """The train split by source, doctests apart (they are made as needed)."""
    library = dict(stdlib.texts("train"))
    tests = {name: text for name, text in stdlib.texts("train", tests=True) if name not in library}
    return {"library": list(library.values()), "tests": list(tests.values())}


def calibration(checkpoint: Checkpoint, rows: int, length: int) -> Tensor:
    """Token ids to learn a model's inner values from: [rows, length + 1], train split, mixed.

    Library and doctests alone: the library's tests would have to be read whole. Raises
    `ValueError` for rows longer than the model's context, and as `tokenizer.coder`.
    """
    if length > (most := checkpoint.shape.max_positions):
        raise ValueError(
            f"length={length:,} is more than the {most:,} positions that this model knows; lower "
            f"--length to {most:,} or less."
        )
    texts = [text for _, text in stdlib.texts("train")]
    chosen: list[str] = []
    size = 0
    for turn in range(len(texts)):
        chosen.append(texts[int((turn * _GOLDEN) % 1 * len(texts))])
        size += len(chosen[-1])
        if size > rows * (length + 1) * _CHARACTERS:
            break
    tokenizer = coder(checkpoint.source)
    end = checkpoint.shape.eos_token_ids[:1]
    return Corpus.build(tokenizer, {"library": chosen}, end).batch(rows, length)


def held_out(encode: Callable[[str], list[int]], length: int, limit: int) -> Tensor:
    """Disjoint rows of `length` + 1 tokens, evenly spread over the held-out modules."""
    ids = [i for _, text in stdlib.texts("held_out") for i in encode(text)]
    rows = torch.tensor(ids[: len(ids) // (length + 1) * (length + 1)]).view(-1, length + 1)
    return rows[:: max(1, len(rows) // limit)][:limit]


@dataclass
class Corpus:
    """Rows of tokens by source, in an order that depends only on how many were taken.

    `taken` is therefore all there is to save, and rows may change their length
    midway. The row starts walk through a source in steps of the golden ratio:
    neighbours in time are far apart in the text, and after any number of rows
    the text is covered evenly (a Weyl sequence).
    """

    tokenizer: Tokenizer
    tokens: dict[str, NDArray[np.uint32]]
    end: Sequence[int]  # what follows a document
    taken: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shares = {s: share for s, share in MIX.items() if s in (*self.tokens, "doctests")}
        self.taken = dict.fromkeys(self._shares, 0) | self.taken

    @classmethod
    def build(cls, tokenizer: Tokenizer, texts: dict[str, list[str]], end: Sequence[int]) -> Corpus:
        """Encode `texts` by source, each followed by `end`; a source without any is left out."""
        tokens = {
            source: np.concatenate(
                [
                    np.array([*encoding.ids, *end], dtype=np.uint32)
                    for encoding in tokenizer.encode_batch_fast(documents)
                ]
            )
            for source, documents in texts.items()
            if documents
        }
        return cls(tokenizer, tokens, end)

    def batch(self, rows: int, length: int) -> Tensor:
        """`rows` sequences of `length` tokens and the one that follows, [rows, length + 1]."""
        return torch.from_numpy(
            np.stack([self._row(self._next_source(), length + 1) for _ in range(rows)])
        )

    def _next_source(self) -> str:
        """The source that is furthest behind its share."""
        return min(self._shares, key=lambda source: self.taken[source] / self._shares[source])

    def _row(self, source: str, length: int) -> NDArray[np.int64]:
        turn = self.taken[source]
        self.taken[source] += 1
        if source == "doctests":
            return self._doctests(turn, length)
        tokens = self.tokens[source]
        start = int((turn * _GOLDEN) % 1 * (len(tokens) - length))
        return tokens[start : start + length].astype(np.int64)

    def _doctests(self, turn: int, length: int) -> NDArray[np.int64]:
        rng = Random(turn)
        ids: list[int] = []
        while len(ids) < length:
            ids += [*self.tokenizer.encode(doctests.document(rng)).ids, *self.end]
        return np.array(ids[:length], dtype=np.int64)
