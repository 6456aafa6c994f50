"""What prompts share: nothing, a prefix, documents. `plain`, `prefix:4,1024`, `rag:8,512`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.workload.pieces import Piece, Pieces
from penstock.workload.plan import Ask
from penstock.workload.prompts import Content, CutPrompts, Prompts
from penstock.workload.sketch import Sketches


class Want(msgspec.Struct, frozen=True):
    """What the plan wants of one ask: its place in the run, its own lengths, its time."""

    index: int
    prompt_tokens: int
    output_tokens: int
    at_s: float | None = None


class Maker:
    """What asks are made of, the same for all of a plan.

    `context` is how many tokens the model holds, prompt and output together,
    `n` how many samples each prompt gets.
    """

    def __init__(self, *, prompts: Prompts, seed: int, context: int | None, n: int = 1) -> None:
        self.prompts = prompts
        self.seed = seed
        self.context = context
        self.n = n
        self._join = _joiner(prompts)

    def rng(self, index: int) -> np.random.Generator:
        """The dice of one ask, beside those that cut its text."""
        return np.random.default_rng([self.seed, index, 2])

    def join(self, pieces: list[Piece]) -> str:
        """The prompt of these pieces; raises `ValueError` where prompts are given whole."""
        if self._join is None:
            raise ValueError(
                f"{self.prompts.description}: cannot share or go on, since they are not cut "
                "from a text; give --prompts a text, or leave it out"
            )
        return self._join(pieces)


def _joiner(prompts: Prompts) -> Callable[[list[Piece]], str] | None:
    if isinstance(prompts, Sketches):
        return prompts.join
    return Pieces(prompts).join if isinstance(prompts, CutPrompts) else None


class Shape(Protocol):
    """How an ask is made. What an ask wants is its own part; `shared_tokens` come on top."""

    @property
    def shared_tokens(self) -> int:
        """Tokens of a prompt beyond its own part."""
        ...

    @property
    def description(self) -> str | None:
        """For the conditions; None: as the prompts say."""
        ...

    def ask(self, make: Maker, want: Want) -> Ask:
        """The ask; of a session the first. Equal wants, equal asks."""
        ...


class Plain(msgspec.Struct, frozen=True):
    """Every prompt by itself."""

    shared_tokens = 0
    description = None

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`."""
        content = make.prompts.prompt(want.index, want.prompt_tokens)
        return plain_ask(make, want, content, want.prompt_tokens if make.prompts.sized else None)


class Prefix(msgspec.Struct, frozen=True):
    """Prompts of `groups` groups; those of a group begin with the same `tokens` tokens.

    Each prompt picks its group evenly, whoever asked before.
    """

    groups: int
    tokens: int

    def __post_init__(self) -> None:
        from_one(groups=self.groups, tokens=self.tokens)

    @property
    def shared_tokens(self) -> int:
        """See `Shape`."""
        return self.tokens

    @property
    def description(self) -> str:
        """See `Shape`."""
        return f"{self.groups} groups that share {self.tokens} tokens each, then unique"

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`."""
        group = int(make.rng(want.index).integers(self.groups))
        shared = (f"prefix {group}", self.tokens)
        content = make.join([shared, (f"own {want.index}", want.prompt_tokens)])
        return plain_ask(make, want, content, self.tokens + want.prompt_tokens)


class Rag(msgspec.Struct, frozen=True):
    """Retrieval: `documents` of `tokens` tokens from a pool, then the question.

    A document of rank r is drawn in proportion to r^-exponent, none twice in a
    prompt. With a pool of 1,000 and exponent 1 the top 3 % make over half of
    all draws, near the skew that RAGCache (Jin et al., 2024) reports.
    """

    documents: int
    tokens: int
    pool: int = 1000
    exponent: float = 1.0

    def __post_init__(self) -> None:
        from_one(documents=self.documents, tokens=self.tokens, pool=self.pool)
        if self.documents > self.pool:
            raise ValueError(
                f"{self.documents} different documents cannot come from a pool of {self.pool}; "
                "make the pool larger"
            )

    @property
    def shared_tokens(self) -> int:
        """See `Shape`."""
        return self.documents * self.tokens

    @property
    def description(self) -> str:
        """See `Shape`."""
        return (
            f"{self.documents} documents of {self.tokens} tokens, drawn from {self.pool} by "
            f"Zipf's law (exponent {self.exponent:g}), then a unique question"
        )

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`."""
        popularity = _zipf(self.pool, self.exponent)
        chosen = make.rng(want.index).choice(self.pool, self.documents, replace=False, p=popularity)
        content = make.join(
            [
                *((f"document {rank}", self.tokens) for rank in chosen.tolist()),
                (f"own {want.index}", want.prompt_tokens),
            ]
        )
        return plain_ask(make, want, content, self.shared_tokens + want.prompt_tokens)


@lru_cache(8)
def _zipf(pool: int, exponent: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.arange(1, pool + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    return weights


def plain_ask(make: Maker, want: Want, content: Content, prompt_tokens: int | None) -> Ask:
    """An ask that stands by itself."""
    return Ask(
        id=str(want.index),
        content=content,
        prompt_tokens=prompt_tokens,
        output_tokens=want.output_tokens,
        at_s=want.at_s,
        n=make.n,
    )


def from_one(**counts: int) -> None:
    """Raise `ValueError` naming the count that is below one."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, not {count}")
