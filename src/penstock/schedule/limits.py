"""What a sequence may ask for: the limits of a pool and of a policy."""

from __future__ import annotations

import sys

from penstock.schedule.errors import RequestRefused
from penstock.schedule.policy import Policy
from penstock.schedule.sequence import Sequence


class Limits:
    """Who could run if nobody else did."""

    def __init__(self, policy: Policy, pages: int, page_size: int) -> None:
        self._policy = policy
        self._pages = pages  # of the pool
        self._size = page_size
        self._budget = policy.kv_budget or sys.maxsize  # tokens that a sequence may keep

    @property
    def capacity(self) -> int:
        """Longest prompt plus output, in tokens, that the pool can hold alone.

        One more than its slots: the last token sampled is never computed. With a
        budget that the pool holds, only the prompt must fit: see `longest`.
        """
        return self._pages * self._size + 1

    def longest(self, most: int) -> int:
        """Longest text, prompt and output, of a model that holds `most` tokens."""
        return most if self._budget <= self._pages * self._size else min(most, self.capacity)

    def pages_for(self, tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-tokens // self._size)

    def most_pages(self, sequence: Sequence) -> int:
        """The most pages that a sequence ever holds."""
        return self.pages_for(min(sequence.limit - 1, max(self._budget, sequence.prompt)))

    def check(self, sequence: Sequence) -> None:
        """Raise `RequestRefused` for what could not run if it were alone, with its peers."""
        if sequence.prompt < 1:
            raise RequestRefused("prompt is empty; give at least one token.", field="prompt")
        if sequence.limit <= sequence.prompt:
            raise RequestRefused(
                f"max_tokens={sequence.limit - sequence.prompt} must be at least 1.",
                field="max_tokens",
            )
        if self.pages_for(sequence.prompt) > self._pages:
            raise RequestRefused(
                f"prompt has {sequence.prompt:,} tokens; the KV pool holds "
                f"{self.capacity - 1:,}. Shorten the prompt.",
                field="prompt",
            )
        if self.most_pages(sequence) > self._pages:
            room = self.capacity - sequence.prompt
            remedy = f"Lower max_tokens to {room} or shorten" if room > 0 else "Shorten"
            raise RequestRefused(
                f"max_tokens={sequence.limit - sequence.prompt:,} with a "
                f"{sequence.prompt:,}-token prompt needs {sequence.limit:,} tokens; the KV pool "
                f"holds {self.capacity:,}. {remedy} the prompt.",
                field="max_tokens" if room > 0 else "prompt",
            )
        if width := len(sequence.peers):
            self._check_group(sequence, width)

    def _check_group(self, sequence: Sequence, width: int) -> None:
        if not self._policy.kv_cache:
            raise RequestRefused("beam search needs the KV cache, which is off.", field="beam")
        if width > self._policy.max_running:
            raise RequestRefused(
                f"{width} beams run together; this server runs {self._policy.max_running} "
                "sequences at once (max_running). Ask for fewer.",
                field="beam",
            )
        if sequence.limit - 1 > self._budget:
            raise RequestRefused(
                f"beams cannot give up KV: up to {sequence.limit:,} tokens are over this server's "
                f"budget of {self._budget:,} (kv_budget). Lower max_tokens.",
                field="beam",
            )
        need = width * self.pages_for(sequence.limit - 1)
        if need > self._pages:
            room = self._pages // width * self._size + 1
            raise RequestRefused(
                f"{width} beams of up to {sequence.limit:,} tokens need {need:,} KV pages; the "
                f"pool has {self._pages:,}, enough for {room:,} tokens each. "
                "Ask for fewer beams or lower max_tokens.",
                field="beam",
            )
