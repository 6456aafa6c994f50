"""OpenVINO GenAI: its continuous batching, and its pipeline for one request at a time.

Exported by optimum-intel. `python -m benchmarks.peers.openvino` is the side
that runs in OpenVINO's environment.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import environment, library
from benchmarks.peers.base import Load, Room, Running, Setting

PACKAGES = ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0")
EXPORTS = {
    "int8": ("--weight-format", "int8"),
    "int4": (*("--weight-format", "int4", "--sym"), *("--group-size", "128", "--ratio", "1.0")),
    "bf16": ("--weight-format", "fp16"),
}


def _setting(kind: Any, pipeline: str) -> Setting:
    weights = {
        "int8": ("int8 per channel", 8.0),
        # The head stays in int8: a quarter of a small model's bits.
        "int4": ("int4 in groups of 128, embedding and head int8", 4.125),
        "bf16": ("fp16 on disk, bf16 in memory", 16.0),
    }[kind]
    return Setting(
        name=f"{kind}-{pipeline}",
        kind=kind,
        weights=weights[0],
        weight_bits=weights[1],
        activations="bf16" if kind == "bf16" else "int8 in groups where it chooses so, else bf16",
        kv="bf16" if kind == "bf16" else "u8",
        kv_bits=16 if kind == "bf16" else 8,
        arithmetic="bf16" if kind == "bf16" else "int8",
        flags=(pipeline, *EXPORTS[kind]),
        workloads="AP" if pipeline == "single" else "ABCDP",
        # Unprimed, requests that arrive together find nothing in its prefix cache.
        primed=pipeline == "batching",
    )


class OpenVino:
    """See `Peer`."""

    name = "openvino"
    served = False
    settings = (
        _setting("int8", "batching"),
        _setting("int8", "single"),
        _setting("int4", "batching"),
        _setting("int4", "single"),
        _setting("bf16", "batching"),
        _setting("bf16", "single"),
    )

    def install(self, room: Room) -> None:
        """See `Peer`."""
        environment.install(room, PACKAGES)
        # A wheel for another torch comes along, and breaks the import of transformers.
        if list(room.directory.glob("venv/lib/python3*/site-packages/torchvision")):
            pip = [str(room.python), "-m", "pip", "uninstall", "--yes", "--quiet", "torchvision"]
            environment.command(pip, room.directory / "install.log")

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`: both pipelines read one export."""
        path = room.directory / f"{checkpoint.name}-{setting.kind}"
        if not path.is_dir():
            with environment.fresh(path) as out:
                export = [str(room.python.parent / "optimum-cli"), "export", "openvino"]
                export += ["--model", str(checkpoint), "--task", "text-generation-with-past"]
                environment.command(
                    [*export, *EXPORTS[setting.kind], str(out)], room.directory / "convert.log"
                )
        return path

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`."""
        arguments = {
            "model": str(model),
            "pipeline": setting.flags[0],
            "threads": room.threads,
            "kv": setting.kv,
            "tokens": load.tokens + 64 * len(load.prompts),
        }
        log = room.directory / f"{setting.name}.log"
        with library.running(room.python, "benchmarks.peers.openvino", arguments, log) as running:
            yield running


def _load(arguments: dict[str, Any]) -> tuple[dict[str, Any], library.Generate]:
    import json

    import openvino
    import openvino_genai as genai

    config = json.loads((Path(arguments["model"]) / "config.json").read_bytes())
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": arguments["kv"],
        "INFERENCE_NUM_THREADS": arguments["threads"],
    }
    batching = arguments["pipeline"] == "batching"
    if batching:
        scheduler = genai.SchedulerConfig()
        per_token = 4 * config["num_hidden_layers"] * config["num_key_value_heads"]
        per_token *= config["head_dim"]
        scheduler.cache_size = 1 + math.ceil(per_token * arguments["tokens"] / 2**30)
        scheduler.max_num_batched_tokens = 256
        scheduler.max_num_seqs = 64
        scheduler.enable_prefix_caching = True
        flags = [scheduler.to_string()]
        pipe = genai.ContinuousBatchingPipeline(arguments["model"], scheduler, "CPU", properties)
    else:
        flags = []
        pipe = genai.LLMPipeline(arguments["model"], "CPU", **properties)

    def wanted(output: int) -> Any:
        asked = genai.GenerationConfig()
        asked.max_new_tokens = asked.min_new_tokens = output
        asked.ignore_eos, asked.do_sample = True, False
        return asked

    def tensor(prompt: Any) -> Any:
        import numpy as np

        return openvino.Tensor(np.array([prompt], dtype=np.int64))

    def generate(load: Load) -> list[int]:
        prompts = [tensor(prompt) for prompt in load.prompts]
        asked = [wanted(output) for output in load.outputs]
        if batching:
            return [len(one.m_generation_ids[0]) for one in pipe.generate(prompts, asked)]
        return [
            len(pipe.generate(prompt, one).tokens[0])
            for prompt, one in zip(prompts, asked, strict=True)
        ]

    flags += [f"{name}={value}" for name, value in properties.items()]
    return {"version": genai.__version__, "flags": [arguments["pipeline"], *flags]}, generate


if __name__ == "__main__":
    library.answer(_load)
