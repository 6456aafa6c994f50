"""ONNX Runtime GenAI: static batches in int4 with int8 arithmetic.

`python -m benchmarks.peers.onnxruntime` is the side that runs in its environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import environment, library
from benchmarks.peers.base import Load, Room, Running, Setting

PACKAGES = (
    *("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1"),
    *("onnx==1.23.2", "onnx-ir==1.1.0", "transformers==5.23.0"),
)


class OnnxRuntime:
    """See `Peer`."""

    name = "onnxruntime"
    served = False
    settings = (
        Setting(
            name="int4",
            kind="int4",
            weights="int4 in blocks of 32, the embedding fp32",
            weight_bits=5,  # a scale in fp32 for 32 weights
            activations="int8 by blocks, else fp32",
            kv="fp32",
            kv_bits=32,
            arithmetic="int8",
            flags=("int4_accuracy_level=4", "int4_block_size=32"),
            # A batch has one length, and the logits of all its prompts' tokens at
            # once: those of C do not fit into memory.
            workloads="ABP",
        ),
    )

    def install(self, room: Room) -> None:
        """See `Peer`."""
        environment.install(room, PACKAGES)

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`."""
        path = room.directory / f"{checkpoint.name}-{setting.name}"
        if not path.is_dir():
            with environment.fresh(path) as out:
                build = [str(room.python), "-m", "onnxruntime_genai.models.builder"]
                build += ["-i", str(checkpoint), "-o", str(out), "-p", "int4", "-e", "cpu"]
                build += ["-c", str(room.directory / "cache"), "--extra_options", *setting.flags]
                environment.command(build, room.directory / "convert.log")
        return path

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`."""
        arguments = {"model": str(model), "threads": room.threads}
        log = room.directory / f"{setting.name}.log"
        with library.running(
            room.python, "benchmarks.peers.onnxruntime", arguments, log
        ) as running:
            yield running


def _load(arguments: dict[str, Any]) -> tuple[dict[str, Any], library.Generate]:
    import json

    import numpy as np
    import onnxruntime_genai as genai

    config = genai.Config(arguments["model"])
    options = {"intra_op_num_threads": arguments["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = genai.Model(config)

    def generate(load: Load) -> list[int]:
        prompts = np.array(load.prompts, dtype=np.int32)
        rows, length = prompts.shape
        asked = genai.GeneratorParams(model)
        whole = length + load.outputs[0]
        asked.set_search_options(
            max_length=whole, min_length=whole, batch_size=rows, do_sample=False
        )
        generator = genai.Generator(model, asked)
        generator.append_tokens(prompts)
        while not generator.is_done():
            generator.generate_next_token()
        return [len(generator.get_sequence(row)) - length for row in range(rows)]

    flags = [f"{name}={value}" for name, value in options.items()]
    return {"version": genai.__version__, "flags": flags}, generate


if __name__ == "__main__":
    library.answer(_load)
