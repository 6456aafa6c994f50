"""Prompts put together from pieces, so that prompts that name a piece share its text.

A shared system prompt, a document of a pool, a block of a trace's prefix
cache: each is a key and a length. Equal keys give equal text, other keys a
text that parts from it within the first tokens; a prompt is a row of pieces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from tokenizers import Encoding, Tokenizer

from penstock.workload.prompts import CutPrompts

Piece = tuple[str, int]  # key and tokens
_KEPT = 1 << 15  # texts of pieces kept, since the next prompt may well share them
_TRIES = 8
_FILLERS = (" a", "1")  # one of them is one token, in words or in bytes


class Pieces:
    """Makes the text of pieces, from the text, salt and seed of `prompts`.

    A piece begins with a line break and ends with a letter or digit, where no
    common tokenizer merges across, so that the tokens of a prompt are those of
    its pieces. Exact where the prompts have a tokenizer.
    """

    def __init__(self, prompts: CutPrompts) -> None:
        self.prompts = prompts
        self._text = lru_cache(_KEPT)(self._make)

    def join(self, pieces: Sequence[Piece]) -> str:
        """The prompt of these pieces, in their order; pieces without tokens are left out.

        A begin-of-text token that the server adds is taken from the last piece.
        """
        *shared, (key, tokens) = [piece for piece in pieces if piece[1] > 0]
        tokenizer = self.prompts.tokenizer
        added = tokenizer.num_special_tokens_to_add(is_pair=False) if tokenizer else 0
        return "".join(self._text(*piece) for piece in [*shared, (key, tokens - added)])

    def _make(self, key: str, tokens: int) -> str:
        prompts = self.prompts
        # The mark is new in each run, the place in the text is not.
        mark = blake2b(f"{prompts.salt} {key}".encode(), digest_size=6).hexdigest()
        place = int.from_bytes(blake2b(key.encode(), digest_size=6).digest())
        if prompts.tokenizer is None:
            size = round(tokens * prompts.characters_per_token)
            text = _to_word(prompts.read(place, f"\n{mark} ", size))
            return text + "1" * (size - len(text))
        size = tokens * 4  # characters; mostly enough
        while True:
            text = prompts.read(place, f"\n{mark} ", size)
            ends = [end for _, end in _encode(prompts.tokenizer, text).offsets]
            if len(ends) >= tokens:
                return _exactly(tokens, text, ends, prompts.tokenizer)
            size *= 2


def _exactly(tokens: int, text: str, ends: list[int], tokenizer: Tokenizer) -> str:
    """The beginning of `text` of so many tokens, ending in a word; `ends` are its tokens'.

    Of a tokenizer that merges even there, the longest found that is no longer.
    """
    for kept in range(tokens, max(0, tokens - _TRIES), -1):
        cut = _to_word(text[: ends[kept - 1]])
        missing = tokens - bisect_right(ends, len(cut))
        for filler in _FILLERS:
            filled = cut + filler * missing
            if len(_encode(tokenizer, filled).ids) == tokens:
                return filled
    return cut


def _to_word(text: str) -> str:
    """The text without what follows its last letter or digit."""
    while text and not text[-1].isalnum():
        text = text[:-1]
    return text


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    return tokenizer.encode(text, add_special_tokens=False)
