"""What a scheduler may decide differently: admission, batching, chunking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Keep = Literal["streaming", "snapkv", "recent", "random"]

LEAST_PAGES = 4  # of a budget: the first, one that is attended to, the newest, and a next one
WATCHED = 32  # last tokens of a prompt whose attention rates its pages, as in SnapKV


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The switches of a scheduler, checked once, here.

    `admit` says for what a waiting sequence must find pages before it may run:
    its first chunk (as vLLM), all tokens known so far (ours), or everything up
    to its limit (never preempts, runs fewer at once). `reserve` is a share of
    the pool that admission leaves untouched for the growth of what runs.

    Raises `ValueError` for a combination that could stall.
    """

    max_running: int = 64
    max_step_tokens: int = 512
    max_waiting: int = 1024
    max_waiting_tokens: int = 4_000_000
    admit: Literal["chunk", "known", "limit"] = "known"
    reserve: float = 0.01
    chunked_prefill: bool = True
    align_chunks: bool = True  # end chunks on page borders, so that whole pages can be shared
    prefix_sharing: bool = True
    kv_cache: bool = True  # off: every step recomputes every token
    batching: Literal["continuous", "static"] = "continuous"
    fill_wait_s: float = 0.05  # static: how long an open batch waits for more requests
    kv_budget: int | None = None  # tokens whose K and V a sequence keeps; None: all
    kv_keep: Keep = "streaming"  # which those are, see `budget.Budget`

    @classmethod
    def vllm_like(cls, *, max_running: int = 256, max_step_tokens: int = 8192) -> Policy:
        """Habits of vLLM v1: admission by first chunk, chunks of any length."""
        return cls(
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            max_waiting=1 << 40,
            max_waiting_tokens=1 << 60,
            admit="chunk",
            reserve=0.0,
            align_chunks=False,
        )

    def check(self, page_size: int) -> None:
        """Raise `ValueError` unless every step can make progress with pages of this size."""
        if self.max_running < 1:
            raise ValueError(f"max_running={self.max_running} must be at least 1.")
        if not 0.0 <= self.reserve < 1.0:
            raise ValueError(f"reserve={self.reserve} must lie in [0, 1).")
        if self.fill_wait_s < 0:
            raise ValueError(f"fill_wait_s={self.fill_wait_s} must not be negative.")
        # A full house of decodes must leave room for one page of prefill,
        # or a stream of long answers would starve new prompts for ever.
        beside = page_size
        if self.kv_budget is not None:
            self._check_budget(self.kv_budget, page_size)
            if self.kv_keep == "snapkv":
                beside += WATCHED - 1  # they are computed in one chunk
        least = self.max_running + beside
        if self.max_step_tokens < least:
            raise ValueError(
                f"max_step_tokens={self.max_step_tokens} leaves no room for prefill beside "
                f"{self.max_running} running sequences, which takes {beside} tokens. "
                f"Raise it to at least {least} or lower max_running."
            )

    def _check_budget(self, tokens: int, page_size: int) -> None:
        if not self.kv_cache:
            raise ValueError(f"kv_budget={tokens} needs the KV cache, which is off.")
        if self.kv_keep not in get_args(Keep):
            raise ValueError(f"kv_keep={self.kv_keep} must be one of {', '.join(get_args(Keep))}.")
        if tokens < LEAST_PAGES * page_size or tokens % page_size:
            pages = max(LEAST_PAGES, round(tokens / page_size))
            raise ValueError(
                f"kv_budget={tokens} must be whole pages of {page_size} tokens, at least "
                f"{LEAST_PAGES}: say {pages * page_size}."
            )
