"""Output that must match a JSON schema, a regular expression or a Lark grammar.

llguidance follows the grammar over the tokenizer's bytes and says, before each
token, which ids may come next: a bitmask. It lets go of Python's interpreter lock
while it works, so masks are computed beside the model's forward pass and grammars
are compiled beside the steps. Imports PyTorch only to apply a mask.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from penstock.engine.grammar_check import check
from penstock.engine.grammar_compile import WHITESPACE, compile_grammar, said
from penstock.engine.request import Grammar

if TYPE_CHECKING:
    import torch

__all__ = ["WHITESPACE", "Grammars", "Matcher", "apply", "check"]

CACHED = 32  # compiled grammars kept, of a few MB each; the worst, of 80


@dataclass(slots=True)
class _Compiled:
    """A grammar at its beginning.

    Copies of it share one lexer, which grows as they go: the better for speed, but
    once it has met a limit it fails every copy, so it is then *spent*.
    """

    first: LLMatcher
    spent: bool = False


class Matcher:
    """How far one sequence has come in its grammar."""

    __slots__ = ("_compiled", "_inner")

    def __init__(self, inner: LLMatcher, compiled: _Compiled) -> None:
        self._inner = inner
        self._compiled = compiled

    def copy(self) -> Matcher:
        """A second sequence that has come as far; compiled parts are shared."""
        return Matcher(self._inner.deep_copy(), self._compiled)

    def accept(self, token_id: int) -> None:
        """Take the next token, one the last mask allowed; an end-of-sequence id ends, unaccepted.

        Sets `error` where the grammar does not allow the token, or a limit is met.
        """
        if not self._inner.consume_token(token_id):
            self._compiled.spent = True

    @property
    def stopped(self) -> bool:
        """Whether no token can follow: it is complete, or there was an error."""
        return bool(self._inner.is_stopped())

    @property
    def complete(self) -> bool:
        """Whether the grammar is satisfied and nothing but the end can follow."""
        return self._inner.is_stopped() and not self._inner.is_error()

    @property
    def error(self) -> str | None:
        """Why the grammar can be followed no further; ask after each mask and each token."""
        return said(self._inner.get_error()) if self._inner.is_error() else None


class Grammars:
    """The grammars of one engine: compiles them, keeps them, computes masks.

    Every id of `eos_token_ids` is allowed exactly where a grammar may end; ids
    between the tokenizer's size and `vocab_size` (padding of the logits) never.
    The tokenizer is read from `directory` when a first grammar comes.
    """

    def __init__(self, directory: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._directory = directory
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        # For the compiler's thread only; the latest used is last.
        self._compiled: OrderedDict[Grammar, _Compiled] = OrderedDict()
        self._executor = LLExecutor()  # on four fifths of the cores
        # One thread each: a slow grammar must not hold up the masks of others.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._masker = ThreadPoolExecutor(1, thread_name_prefix="mask")

    def start(self, grammar: Grammar) -> Future[Matcher]:
        """A matcher at the grammar's beginning, once compiled.

        The future raises `ValueError` for a grammar that cannot be compiled within its
        limits, and where the model has no tokenizer or no end-of-sequence id. `check`
        refuses more: a grammar from outside is to pass it first.
        """
        return self._compiler.submit(self._start, grammar)

    def masks(self, matchers: Sequence[Matcher]) -> Future[NDArray[np.int32]]:
        """Which tokens may come next: bit t % 32 of word t // 32 of each matcher's row.

        The matchers belong to the computation until the future is done. A matcher
        whose `error` is set afterwards has a row that allows only the end.
        """
        return self._masker.submit(self._fill, list(matchers))

    def close(self) -> None:
        """End both threads; what was not begun is cancelled."""
        self._compiler.shutdown(cancel_futures=True)
        self._masker.shutdown(cancel_futures=True)

    def _start(self, grammar: Grammar) -> Matcher:
        compiled = self._compiled.get(grammar)
        if compiled is None or compiled.spent:
            compiled = _Compiled(compile_grammar(self._tokenizer, grammar))
            self._compiled[grammar] = compiled
        self._compiled.move_to_end(grammar)
        if len(self._compiled) > CACHED:
            self._compiled.popitem(last=False)
        return Matcher(compiled.first.deep_copy(), compiled)

    def _fill(self, matchers: list[Matcher]) -> NDArray[np.int32]:
        masks = allocate_token_bitmask(len(matchers), self._vocab_size)
        rows = [(matcher._inner, row) for row, matcher in enumerate(matchers)]
        fill_next_token_bitmask_par(self._executor, rows, masks)
        for matcher in matchers:
            matcher._compiled.spent |= matcher._inner.is_error()
        return masks

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        path = self._directory / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{self._directory} holds no tokenizer.json, which grammars need.")
        if not self._eos_token_ids:
            raise ValueError("this model names no end-of-sequence token, which grammars need.")
        return LLTokenizer(
            path.read_text(encoding="utf-8"),
            n_vocab=self._vocab_size,
            eos_token=self._eos_token_ids,
        )


def apply(logits: torch.Tensor, rows: Sequence[int], masks: NDArray[np.int32]) -> None:
    """Set to -inf, in place, what `masks[i]` forbids in row `rows[i]` of fp32 `logits` [L, vocab].

    Rows must differ and logits be finite or -inf.
    """
    import torch

    octets = torch.from_numpy(masks.view(np.uint8)).to(logits.device).int()
    # Adding 0 or -inf is a plain vector loop; a masked fill branches, and takes five
    # times as long on a CPU.
    bias = torch.nn.functional.embedding(octets, _lanes(logits.device))  # [rows, octets, 8]
    index = torch.tensor(rows, device=logits.device)
    logits.index_add_(0, index, bias.flatten(1)[:, : logits.shape[-1]])


@functools.cache
def _lanes(device: torch.device) -> torch.Tensor:
    """What the eight bits of each octet add to logits: 0 where set, -inf where not."""
    import torch

    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits == 1, np.float32(0), -np.float32(np.inf))).to(device)
