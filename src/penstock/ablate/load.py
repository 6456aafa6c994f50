"""The requests that every rung serves: many at once, code-like text, a shared beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Literal

import msgspec

from penstock.ablate.setting import Asked
from penstock.workload import stdlib

# Output lengths of neighbouring prompts as shares of their mean: a few long answers among
# short ones, as users ask them. All of them average one; so do the first two, and nearly
# the first six.
LENGTHS = (0.9, 1.1, 0.2, 2.4, 0.5, 0.6, 0.3, 2.0)

_CHARACTERS = 3  # of a token of code, at most on average
_ROUNDS = 64  # that have text of their own


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is asked, how often, and how much is spent on quality.

    Raises `ValueError` naming what does not fit.
    """

    requests: int = 24
    samples: int = 4  # of each prompt
    shared: int = 160  # tokens that all prompts begin with
    own: int = 48  # tokens after them
    output: int = 40  # mean tokens of an answer
    seats: int = 12  # requests served at once, batch mode apart
    few: int = 2  # requests that are served where they are served one at a time
    rounds: int = 3
    curve: tuple[int, ...] = (1, 2, 4, 8)  # requests at once, and all seats; none: no curves
    temperature: float = 0.8
    minutes: float = 2.0  # of each distillation
    rows: int = 40  # of held-out text, 256 tokens each
    tasks: int = 20  # doctests of each of five grades

    def __post_init__(self) -> None:
        if self.requests < 1 or self.samples < 1 or self.requests % self.samples:
            raise ValueError(
                f"requests={self.requests} must be a multiple of samples={self.samples}, of which "
                "every prompt has as many."
            )
        if self.shared < 1 or self.own < 1:
            raise ValueError(f"shared={self.shared} and own={self.own} must be at least 1 token.")
        if self.output < 2:
            raise ValueError(f"output={self.output} must be at least 2 tokens: TPOT needs a gap.")
        if self.seats < 1 or self.rounds < 1:
            raise ValueError(f"seats={self.seats} and rounds={self.rounds} must be at least 1.")

    @property
    def prompts(self) -> int:
        """Different prompts."""
        return self.requests // self.samples

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.shared + self.own

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer."""
        return self.prompt + max(self.length(i) for i in range(self.prompts))

    @property
    def crowd(self) -> int:
        """Tokens that a step needs room for, where all requests are served at once."""
        return max(self.seats, self.requests) + 32

    def length(self, prompt: int) -> int:
        """Output tokens of each answer to a prompt, by its number."""
        return max(2, round(LENGTHS[prompt % len(LENGTHS)] * self.output))


QUICK = Scale(
    requests=12,
    shared=96,
    own=32,
    output=20,
    seats=6,
    rounds=2,
    curve=(),
    minutes=0.1,
    rows=8,
    tasks=4,
)

Round = tuple[Literal["rounds", "curve", "warm"], int]
_OFFSETS = {"rounds": 1, "curve": 1 + _ROUNDS // 2, "warm": 0}


class Load:
    """The requests of each round: the same on every rung, new to its caches in every round.

    `encode` is the model's tokenizer's.
    """

    def __init__(self, scale: Scale, encode: Callable[[str], list[int]]) -> None:
        self.scale = scale
        self._each = scale.shared + scale.prompts * scale.own
        self._ids = _ids(encode, self._each * _ROUNDS)

    def prompts(self, turn: Round) -> list[list[int]]:
        """The different prompts of a round: held-out library code."""
        kind, index = turn
        start = (_OFFSETS[kind] + index) % _ROUNDS * self._each
        text = self._ids[start : start + self._each]
        shared, own = self.scale.shared, self.scale.own
        return [
            text[:shared] + text[shared + i * own : shared + (i + 1) * own]
            for i in range(self.scale.prompts)
        ]

    def requests(self, prompts: Sequence[list[int]], together: bool) -> list[Asked]:
        """The round's requests: first one for each prompt, then its further samples.

        `prompts` are the round's, perhaps shortened. With `together` each is one
        request of all its samples.
        """
        scale = self.scale
        if together:
            return [
                Asked(prompt=p, output=scale.length(i), seed=i, samples=scale.samples)
                for i, p in enumerate(prompts)
            ]
        return [
            Asked(prompt=p, output=scale.length(i), seed=_seed(i, sample))
            for sample in range(scale.samples)
            for i, p in enumerate(prompts)
        ]

    def in_order(self, said: Sequence[list[int]], together: bool) -> list[list[int]]:
        """Answers to `requests`, in the order of requests that are not together."""
        if not together:
            return list(said)
        samples = self.scale.samples
        return list(chain(*(said[sample::samples] for sample in range(samples))))


def _seed(seed: int, sample: int) -> int:
    """The seed that the engine gives a choice of a request."""
    from penstock.engine.sampling import choice_seed

    return choice_seed(seed, sample)


def _ids(encode: Callable[[str], list[int]], count: int) -> list[int]:
    """So many tokens of held-out code, from its beginning again where it ends."""
    texts = [text for _, text in stdlib.texts("held_out")]
    sizes = accumulate(map(len, texts))
    enough = next((i for i, size in enumerate(sizes, 1) if size > _CHARACTERS * count), len(texts))
    ids = [i for text in texts[:enough] for i in encode(text)]
    while len(ids) < count:
        ids += ids
    return ids[:count]
