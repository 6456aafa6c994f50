"""What an engine knows of its model, and how large a KV pool it takes."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from penstock import models
from penstock.engine.kv import KVStore
from penstock.engine.model import loader
from penstock.engine.model.config import LayerConfig, ModelConfig
from penstock.engine.model.decoder import Decoder
from penstock.engine.options import EngineOptions
from penstock.engine.request import ModelFacts

# Up to this many bytes of weights a step is too short to share: handing its parts
# to a second thread costs what it gains, and far more when that thread's core is
# wanted by the server or its client (7 M parameters, 1 row, 2 cores: 3.7 ms with
# one thread, 3.2 with two that spin, 5.1 with two that sleep).
SINGLE_THREAD_BYTES = 64 << 20

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_dtype(options: EngineOptions, config: ModelConfig) -> torch.dtype:
    """Precision to compute in: as asked, or that of the checkpoint, fp16 becoming bf16.

    Beside integers it is bf16, in which their kernels compute.
    """
    if options.dtype != "auto":
        return DTYPES[options.dtype]
    wide = config.checkpoint_dtype == "float32" and config.quantization is None
    return torch.float32 if wide else torch.bfloat16


def choose_threads(options: EngineOptions, decoder: Decoder) -> int:
    """CPU threads to compute with: as asked, or one for a small model and all cores else."""
    if options.threads is not None:
        return options.threads
    if decoder.device.type == "cpu" and loader.weight_bytes(decoder) > (SINGLE_THREAD_BYTES):
        return len(os.sched_getaffinity(0))
    return 1


def gather(
    model: str, decoder: Decoder, options: EngineOptions, draft: Decoder | None = None
) -> ModelFacts:
    """Describe a loaded model, and size its KV pool, of which a draft model has a copy.

    Raises `ValueError` for a context or a pool that cannot be.
    """
    config = decoder.config
    longest = options.max_model_len or config.max_positions
    if not 1 < longest <= config.max_positions:
        raise ValueError(
            f"max_model_len={longest} must lie between 2 and {config.max_positions:,}, "
            "the context of this checkpoint."
        )
    dtype = decoder.dtype
    per_token = _kv_bytes(decoder, options)
    for_both = per_token + (0 if draft is None else _kv_bytes(draft, options))
    tokens = options.kv_tokens or min(
        options.max_running * longest, _free_bytes(decoder.device) // 4 // for_both
    )
    pages = tokens // options.page_size
    if pages < 1:
        raise ValueError(
            f"kv_tokens={tokens} is less than one page of {options.page_size} tokens; raise it."
        )
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    weights = decoder.kernels.weights
    return ModelFacts(
        name=model,
        architecture=config.architecture,
        max_model_len=longest,
        vocab_size=config.vocab_size,
        parameters=loader.parameters(decoder),
        weight_bytes=loader.weight_bytes(decoder),
        flops_per_token=loader.flops_per_token(decoder),
        head_flops=loader.last_flops(decoder),
        attention_flops=_attention_flops(config.layers),
        prompt_attention_flops=_attention_flops(config.layers[: config.full_layers]),
        kv_bytes_per_token=per_token,
        dtype=name,
        precision=name if weights == "plain" else f"{weights} weights, else {name}",
        compute=name if weights == "plain" else "int8",
        kv_dtype=name if options.kv == "plain" else options.kv,
        device=str(decoder.device),
        threads=torch.get_num_threads(),
        page_size=options.page_size,
        pages=pages,
        eos_token_ids=list(config.eos_token_ids),
        # Whoever asks for quality must be able to see that there is none.
        synthetic=models.is_synthetic(models.path(model)),
    )


def _attention_flops(layers: Iterable[LayerConfig]) -> int:
    return 4 * sum(layer.heads * layer.head_dim for layer in layers)


def _kv_bytes(decoder: Decoder, options: EngineOptions) -> int:
    """Bytes of one token's K and V, by the store's own arithmetic, on an empty one."""
    return KVStore(
        decoder.kv_layers(),
        1,
        options.page_size,
        decoder.dtype,
        decoder.device,
        storage=decoder.kernels.pages,
    ).bytes_per_token


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
