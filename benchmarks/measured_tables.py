"""Reads the published tables of measured serving points (what each is: data/SOURCES.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measured_points import devices, rows
from penstock.plan.audit.measured import Measured
from penstock.predict.architecture import plain_name

FILES = {
    "serving": "serving_measured_h100_b200.csv",
    "offline": "trtllm_perf_overview_v1.csv",
    "llama.cpp": "llamacpp_dgx_spark_batched.csv",
}
_LLAMA_CPP = {
    "gpt-oss-20b MXFP4 MoE": ("gpt-oss-20b", "mxfp4"),
    "gpt-oss-120b MXFP4 MoE": ("gpt-oss-120b", "mxfp4"),
    "Qwen3-Coder-30B-A3B Q8_0": ("qwen3-30b-a3b", "int8"),
    "Qwen2.5-Coder-7B Q8_0": ("qwen2.5-7b", "int8"),
}


class Served(NamedTuple):
    """What a row of the serving table tells; None is untold. `system` is of all users, tokens/s."""

    model: str
    device: str
    precision: str | None
    devices: int | None
    concurrency: int | None
    prompt: int
    output: int
    user: float
    system: float | None


def told(row: dict[str, str]) -> Served:
    """What a row of serving_measured_h100_b200.csv tells."""
    concurrency = int(row["concurrency"]) if row["concurrency"] else None
    output, ttft, tpot = int(row["osl"]), float(row["ttft_ms"]) / 1e3, float(row["tpot_ms"]) / 1e3
    return Served(
        model=plain_name(row["model_path"]),
        device=row["system"].removesuffix("_sxm"),
        # gpt-oss is published in MXFP4 only; the column says fp4 or what is computed in.
        precision="mxfp4" if "gpt-oss" in row["model_path"] else row["precision"] or None,
        devices=devices(row),
        concurrency=concurrency,
        prompt=int(row["isl"]),
        output=output,
        user=1 / tpot,
        # In a closed loop by Little's law: as many are in flight as are finished
        # in the time that one takes.
        system=concurrency * output / (ttft + (output - 1) * tpot) if concurrency else None,
    )


def serving(path: Path) -> Iterator[Measured]:
    """Points of serving_measured_h100_b200.csv (ai-dynamo/aiconfigurator) that tell enough."""
    for row in rows(path):
        p = told(row)
        if p.precision and p.devices and p.concurrency:
            yield Measured(
                model=p.model,
                device=p.device,
                precision=p.precision,
                devices=p.devices,
                mode="agg" if row["mode"] == "agg" else "disagg",
                concurrency=p.concurrency,
                prompt=p.prompt,
                output=p.output,
                user=p.user,
                system=p.system,
                prefill=None,
                software=f"{row['backend']} {row['backend_version']}",
                source="ai-dynamo/aiconfigurator",
            )


def offline(path: Path) -> Iterator[Measured]:
    """Points of trtllm_perf_overview_v1.csv (NVIDIA/TensorRT-LLM)."""
    for row in _rows(path):
        yield Measured(
            model=plain_name(row["model"].replace(" ", "-")),
            device="rtx-pro-6000" if row["gpu"] == "RTX6000Pro" else row["gpu"].lower(),
            precision=row["precision"].lower(),
            devices=int(row["gpus"]),
            mode="offline",
            concurrency=None,
            prompt=int(row["isl"]),
            output=int(row["osl"]),
            user=None,
            system=float(row["total_output_tokens_per_s"]),
            prefill=None,
            software="TensorRT-LLM v1",
            source="NVIDIA/TensorRT-LLM",
        )


def batched(path: Path) -> Iterator[Measured]:
    """Points of llamacpp_dgx_spark_batched.csv (ggml-org/llama.cpp)."""
    for row in _rows(path):
        model, precision = _LLAMA_CPP[row["model"]]
        batch, total = int(row["batch"]), float(row["s_tg_tok_s"])
        yield Measured(
            model=model,
            device="gb10",
            precision=precision,
            devices=1,
            mode="batched",
            concurrency=batch,
            prompt=int(row["prompt_tokens"]),
            output=int(row["gen_tokens"]),
            user=total / batch,
            system=None,  # its decode is timed apart from its prompts
            prefill=float(row["s_pp_tok_s"]),
            software="llama.cpp",
            source="ggml-org/llama.cpp",
        )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
