"""Reads the published tables of measured serving points (what each is: data/SOURCES.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from penstock.plan.audit.measured import Measured
from penstock.predict.architecture import architecture, plain_name

FILES = {
    "serving": "serving_measured_h100_b200.csv",
    "offline": "trtllm_perf_overview_v1.csv",
    "llama.cpp": "llamacpp_dgx_spark_batched.csv",
}
_DEVICES = {"b200_sxm": "b200", "h100_sxm": "h100", "RTX6000Pro": "rtx-pro-6000"}
_LLAMA_CPP = {
    "gpt-oss-20b MXFP4 MoE": ("gpt-oss-20b", "mxfp4"),
    "gpt-oss-120b MXFP4 MoE": ("gpt-oss-120b", "mxfp4"),
    "Qwen3-Coder-30B-A3B Q8_0": ("qwen3-30b-a3b", "int8"),
    "Qwen2.5-Coder-7B Q8_0": ("qwen2.5-7b", "int8"),
}


def serving(path: Path) -> Iterator[Measured]:
    """Points of serving_measured_h100_b200.csv (ai-dynamo/aiconfigurator)."""
    for row in _rows(path):
        model, precision, devices = row["model_path"], row["precision"], devices_of(row)
        if not (precision and devices and row["concurrency"]):
            continue
        # gpt-oss is published in MXFP4 only; the column says fp4 or what is computed in.
        precision = "mxfp4" if "gpt-oss" in model else precision
        concurrency, output = int(row["concurrency"]), int(row["osl"])
        ttft, tpot = float(row["ttft_ms"]) / 1000, float(row["tpot_ms"]) / 1000
        yield Measured(
            model=plain_name(model),
            device=_DEVICES[row["system"]],
            precision=precision,
            devices=devices,
            mode="agg" if row["mode"] == "agg" else "disagg",
            concurrency=concurrency,
            prompt=int(row["isl"]),
            output=output,
            user=1 / tpot,
            # In a closed loop by Little's law: as many are in flight as are finished
            # in the time that one takes.
            system=concurrency * output / (ttft + (output - 1) * tpot),
            prefill=None,
            software=f"{row['backend']} {row['backend_version']}",
            source="ai-dynamo/aiconfigurator",
        )


def offline(path: Path) -> Iterator[Measured]:
    """Points of trtllm_perf_overview_v1.csv (NVIDIA/TensorRT-LLM)."""
    for row in _rows(path):
        yield Measured(
            model=plain_name(row["model"].replace(" ", "-")),
            device=_DEVICES.get(row["gpu"], row["gpu"].lower()),
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


def devices_of(row: dict[str, str]) -> int | None:
    """Devices of the whole deployment; None where a split one does not tell.

    Of those only the width of tensor parallelism is told, which is a worker's
    number of devices where each holds a part of every layer: not with experts.
    """

    def number(field: str) -> int:
        return int(float(row[field] or 0))

    if row["mode"] == "agg":
        return number("tp_size") * max(1, number("pp_size")) * max(1, number("attention_dp_size"))
    if architecture(row["model_path"]).is_moe:
        return None
    prefill = number("prefill_num_workers") * number("prefill_tp_size")
    decode = number("decode_num_workers") * number("decode_tp_size")
    return prefill + decode if prefill and decode else None
