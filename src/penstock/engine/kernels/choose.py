"""Which kernels a model runs on."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from penstock.engine.kernels.native import library
from penstock.engine.kernels.native.kernels import NativeKernels
from penstock.engine.kernels.plain import PlainKernels
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Kernels
from penstock.engine.options import KV

log = logging.getLogger(__name__)

Weights = Literal["plain", "int8", "int4"]
Choice = Literal["auto", "native", "torch"]


def choose(
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    page_size: int,
    weights: Weights = "plain",
    kv: KV = "plain",
    kernels: Choice = "auto",
    deterministic: bool = False,
) -> Kernels:
    """The fastest kernels that can serve the model, or the ones asked for.

    A checkpoint of integers is multiplied as such where the native kernels run, and
    turned back into `dtype` elsewhere, unless its own format is asked for as `weights`.
    Says once in the log why the native ones are not taken where one would expect
    them. Raises `ValueError` if they were asked for, or `deterministic`, and cannot
    be had, or for `weights` other than the checkpoint's integers.
    """
    held = config.quantization
    if held is not None and weights not in ("plain", held.form):
        raise ValueError(
            f"weights={weights} cannot be made of this checkpoint's {held.form}; leave it out, or "
            "give the checkpoint that it was made from."
        )
    if kernels == "torch":
        lacking: str | None = "kernels=torch was asked for"
    else:
        lacking = _lacking(config, dtype, torch.device(device), page_size)
    if lacking is None:
        if held is not None:
            return NativeKernels(held.form, kv)
        return NativeKernels("bf16" if weights == "plain" else weights, kv)
    if deterministic:
        raise ValueError(
            f"deterministic=true needs the native kernels, whose sums do not depend on the "
            f"batch: {lacking}."
        )
    if kernels != "torch":
        if kernels == "native":
            raise ValueError(f"kernels=native cannot serve this model here: {lacking}.")
        if dtype == torch.bfloat16 and torch.device(device).type == "cpu":
            log.warning("Slower kernels, those of PyTorch: %s.", lacking)
    if held is not None and weights == "plain":
        called = str(dtype).removeprefix("torch.")
        log.warning("The checkpoint's %s weights become %s: %s.", held.form, called, lacking)
    for name, asked in (("weights", weights), ("kv", kv)):
        if asked != "plain":
            log.warning("%s=%s without native kernels: slower than without it.", name, asked)
    return PlainKernels(dtype, weights, kv)


def _lacking(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, page_size: int
) -> str | None:
    """Why the native kernels cannot run."""
    if device.type != "cpu":
        return f"they are for the CPU, not device={device}"
    if dtype != torch.bfloat16:
        return f"they compute in bf16, not in {str(dtype).removeprefix('torch.')}"
    try:
        library.library()
    except library.NotHere as error:
        return str(error)
    return NativeKernels.lacking(config, page_size)
