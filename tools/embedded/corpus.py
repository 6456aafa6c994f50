"""What the model reads: standard library, its tests, and generated doctests."""

from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedded.tokenizer import END
from penstock.workload import doctests, stdlib

# Share of the rows of a batch. Tests are many and repeat themselves: a taste of them
# is enough. The doctests are what quality is counted by, and arithmetic is hard.
MIX = {"library": 0.55, "tests": 0.15, "doctests": 0.30}

_GOLDEN = (5**0.5 - 1) / 2


def training_texts() -> dict[str, list[str]]:
    """The train split by source, doctests apart (they are made as needed)."""
    library = dict(stdlib.texts("train"))
    tests = {name: text for name, text in stdlib.texts("train", tests=True) if name not in library}
    return {"library": list(library.values()), "tests": list(tests.values())}


@dataclass
class Corpus:
    """Rows of tokens by source, in an order that depends only on how many were taken.

    `taken` is therefore all there is to save, and rows may change their length
    midway. The row starts walk through a source in steps of the golden ratio:
    neighbours in time are far apart in the text, and after any number of rows
    the text is covered evenly (a Weyl sequence).
    """

    tokenizer: Tokenizer
    tokens: dict[str, NDArray[np.uint16]]
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MIX, 0))

    @classmethod
    def build(cls, tokenizer: Tokenizer, texts: dict[str, list[str]]) -> "Corpus":
        """Encode `texts`, each followed by the end token."""
        tokens = {
            source: np.concatenate(
                [
                    np.array(encoding.ids, dtype=np.uint16)
                    for encoding in tokenizer.encode_batch_fast([text + END for text in documents])
                ]
            )
            for source, documents in texts.items()
        }
        return cls(tokenizer, tokens)

    def batch(self, rows: int, length: int) -> torch.Tensor:
        """`rows` sequences of `length` tokens and the one that follows, [rows, length + 1]."""
        return torch.from_numpy(
            np.stack([self._row(self._next_source(), length + 1) for _ in range(rows)])
        )

    def _next_source(self) -> str:
        """The source that is furthest behind its share."""
        return min(MIX, key=lambda source: self.taken[source] / MIX[source])

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
            ids += self.tokenizer.encode(doctests.document(rng) + END).ids
        return np.array(ids[:length], dtype=np.int64)
