"""Keys of pages from the tokens they hold: a chain of hashes."""

from __future__ import annotations

from array import array
from hashlib import blake2b


class PageKeys:
    """Key of the i-th page of a growing list of tokens, None while the page is not full.

    A key is a 128-bit hash of the page's tokens and the key before it, so
    equal keys mean equal prefixes, also for prompts made to collide.
    """

    def __init__(self, tokens: list[int], page_size: int) -> None:
        self._tokens = tokens
        self._page_size = page_size
        self._keys: list[bytes] = []

    def __call__(self, page: int) -> bytes | None:
        """Key of a page, once its tokens are all there."""
        size, keys = self._page_size, self._keys
        if (page + 1) * size > len(self._tokens):
            return None
        while len(keys) <= page:
            start = len(keys) * size
            ids = array("q", self._tokens[start : start + size])
            before = keys[-1] if keys else b""
            keys.append(blake2b(ids.tobytes(), key=before, digest_size=16).digest())
        return keys[page]
