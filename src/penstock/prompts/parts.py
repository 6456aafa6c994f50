"""A prompt's tokens in parts that stay or go together: tokens, words, lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.engine.model.tokenizer import Tokenizer

By = Literal["token", "word", "line"]

# Tokens of a line at most: what is longer, a paragraph without a full stop, is cut.
_LONGEST = 48
# Where a sentence of prose ends; of code, a line does.
_SENTENCE = re.compile(rb"[.!?][\"')\]]*\s$")
# The most frequent function words of English, and what separates them.
_STOPPED = """
    a about all also an and any are as at be been but by can could did do does for from had has
    have he her his how i if in into is it its may more most no not of on one only or other our
    out she should so some such than that the their them then there these they this to up was we
    were what when which who will with would you your , . ; : ! ? ' " ( ) [ ] { } -
"""
STOP_WORDS = frozenset(_STOPPED.split())


class Parts:
    """A prompt as its tokens' bytes, and which of them belong together.

    `of` is the part of each token, int64 [n], counted from 0 in order. Tokens that
    share one character are never parted, so every selection of parts is text.
    """

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], by: By) -> None:
        self.bytes = [tokenizer.token_bytes(token) for token in ids]
        begins = _begins(self.bytes, by)
        self.of: NDArray[np.int64] = np.cumsum(begins) - 1
        self.special = np.array([not spelled for spelled in self.bytes], bool)

    def __len__(self) -> int:
        return len(self.bytes)

    def whole(self, tokens: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Every token of the parts that any of `tokens`, bool [n], belongs to."""
        if not len(self):
            return tokens
        return np.bincount(self.of, tokens).astype(bool)[self.of]

    def matching(self, patterns: Iterable[str]) -> NDArray[np.bool_]:
        """Tokens, bool [n], that any match of these regular expressions touches.

        Raises `ValueError` for what is no regular expression.
        """
        found = np.zeros(len(self), bool)
        ends = np.cumsum([len(spelled) for spelled in self.bytes])
        text = b"".join(self.bytes)
        for pattern in patterns:
            try:
                compiled = re.compile(pattern.encode(), re.MULTILINE)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            for match in compiled.finditer(text):
                if match.end() > match.start():
                    first = np.searchsorted(ends, match.start(), side="right")
                    found[first : np.searchsorted(ends, match.end(), side="left") + 1] = True
        return found

    def stop_words(self) -> NDArray[np.bool_]:
        """Tokens, bool [n], of words that are a function word of English or a mark."""
        words = np.split(np.arange(len(self)), np.flatnonzero(_begins(self.bytes, "word"))[1:])
        found = np.zeros(len(self), bool)
        for rows in words:
            word = b"".join(self.bytes[row] for row in rows)
            found[rows] = word.decode(errors="replace").strip().lower() in STOP_WORDS
        return found


def _begins(spelled: Sequence[bytes], by: By) -> NDArray[np.bool_]:
    """Whether each token begins a part."""
    begins = np.ones(len(spelled), bool)
    missing = 0  # bytes of a character that is not complete
    length = 0  # tokens of the part so far
    before = b""
    for index, token in enumerate(spelled):
        ends = _parted(before, token, by) or length >= _LONGEST
        begins[index] = index == 0 or (ends and not missing)
        length = 1 if begins[index] else length + 1
        missing = _missing(token, missing)
        # A line's end may share its token with the space that the next one begins with.
        before = b"\n" if b"\n" in token else (before + token)[-8:]
    return begins


def _parted(before: bytes, token: bytes, by: By) -> bool:
    if by == "token":
        return True
    if by == "line":
        return before.endswith(b"\n") or _SENTENCE.search(before) is not None
    inside = token[:1].isalnum() or token[:1] in (b"_", b"'") or token[:1] >= b"\x80"
    return not inside or not (
        before[-1:].isalnum() or before[-1:] == b"_" or before[-1:] >= b"\x80"
    )


def _missing(token: bytes, missing: int) -> int:
    """How many bytes the last character lacks after `token`."""
    for byte in token:
        if byte < 0x80:
            missing = 0
        elif byte >= 0xC0:
            missing = 3 if byte >= 0xF0 else 2 if byte >= 0xE0 else 1
        else:
            missing = max(0, missing - 1)
    return missing
