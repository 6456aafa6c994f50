"""What goes into the engine and what comes out. Imports no tensor library."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to choose each next token, and when to stop.

    `temperature=0` is greedy. `top_k=0` and `top_p=1.0` switch those filters
    off. `seed=None` draws one at admission. `max_tokens=None` means "as many
    as the model's context holds". The model's own end-of-sequence ids stop a
    sequence unless `ignore_eos`; `stop_token_ids` are added to them.

    Raises `ValueError` naming the field when a value is out of range.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1.")
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature={self.temperature} must lie in [0, 100]; 0 is greedy.")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be 0 (off) or more.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]; 1 is off.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must fit in 64 bits.")


class GenerateRequest(msgspec.Struct, kw_only=True):
    """One prompt, as token ids, with its sampling parameters."""

    id: str
    prompt: list[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0  # lower runs first


class Delta(msgspec.Struct, kw_only=True):
    """What one step added to one request.

    Exactly one delta of a request has `finish_reason` set, and it is the last.
    The token that stopped it (an end-of-sequence or stop id) is in
    `token_ids` and counted, as OpenAI's `usage` counts it.
    """

    request_id: str
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    error: str | None = None  # set when finish_reason is "error"
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens whose K and V were already there


class EngineStats(msgspec.Struct, kw_only=True):
    """A snapshot of the engine's state; counters only ever grow."""

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_held: int
    pages_cached: int
    steps: int
    prompt_tokens: int  # of prompts whose first token is out; recomputation does not count
    cached_tokens: int  # of those, found in the prefix cache
    output_tokens: int
    preemptions: int
    finished: int
    cancelled: int
    failed: int


class ModelFacts(msgspec.Struct, kw_only=True):
    """What a report needs to know of the model and how it is served."""

    name: str
    architecture: str
    max_model_len: int  # tokens, prompt and output together
    vocab_size: int
    parameters: int
    weight_bytes: int  # bytes of weights read by one step
    flops_per_token: int  # 2 x weights multiplied, attention apart
    head_flops: int  # of those, in the output head, which prompt tokens skip
    attention_flops: int  # per token and token of its context: 4 x layers x query heads x head size
    kv_bytes_per_token: int
    dtype: str
    kv_dtype: str
    device: str
    threads: int
    page_size: int
    pages: int
    eos_token_ids: list[int]
    synthetic: bool = False  # random weights: speed means something, quality nothing
