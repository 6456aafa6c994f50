"""The engine's switches. Imports no tensor library."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.schedule.policy import Keep

Dtype = Literal["auto", "fp32", "bf16"]
Weights = Literal["plain", "int8", "int4"]
KV = Literal["plain", "int8", "int4"]
Kernels = Literal["auto", "native", "torch"]
Batching = Literal["continuous", "static"]
Speculate = Literal["off", "lookup", "suffix", "draft"]


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every switch of the engine, with the defaults of `penstock serve`.

    `kv_tokens` is the size of the KV pool in tokens; None takes
    `max_running` x the model's context, at most a quarter of the free memory.
    `threads` None takes one for a small model and every core for others.
    """

    dtype: Dtype = "auto"
    weights: Weights = "plain"  # plain: in the precision of `dtype`
    kv: KV = "plain"  # how K and V are stored
    kernels: Kernels = "auto"
    deterministic: bool = False  # refuse to run if results could depend on the batch
    device: str = "cpu"
    threads: int | None = None
    page_size: int = 16
    kv_tokens: int | None = None
    max_model_len: int | None = None

    max_running: int = 64  # sequences decoding or prefilling at once
    max_step_tokens: int = 512  # tokens one step may take through the model
    max_waiting: int = 1024  # queued requests before 429
    max_waiting_tokens: int = 4_000_000  # queued prompt tokens before 429

    batching: Batching = "continuous"
    fill_wait_s: float = 0.05  # static only: how long a batch waits to fill
    kv_cache: bool = True
    kv_budget: int | None = None  # tokens whose K and V a request keeps behind its prompt
    kv_keep: Keep | None = None  # which those are, see `schedule.budget`; None: streaming
    prefix_sharing: bool = True
    chunked_prefill: bool = True

    speculate: Speculate = "off"  # where guesses of the next tokens come from
    draft_model: str | None = None  # for "draft": a checkpoint of the same vocabulary
    draft_tokens: int | None = None  # guesses a step; None: as many as pay
