"""Hugging Face transformers: plain `generate`, and its continuous batching.

`python -m benchmarks.peers.transformers` is the side that runs in its environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import environment, library
from benchmarks.peers.base import Load, NotMeasured, Room, Running, Setting

PACKAGES = ("transformers==5.23.0", "accelerate")
BLOCK = 256  # tokens of a block of its cache, by default


def _setting(name: str, workloads: str) -> Setting:
    return Setting(
        name=name,
        kind="bf16",
        weights="bf16",
        weight_bits=16,
        activations="bf16",
        kv="bf16",
        kv_bits=16,
        arithmetic="bf16",
        workloads=workloads,
    )


class Transformers:
    """See `Peer`."""

    name = "transformers"
    served = False  # its server takes no token ids and forces no length
    # A static batch is padded to one length; D has many.
    settings = (_setting("generate", "ABCP"), _setting("continuous", "BCD"))

    def install(self, room: Room) -> None:
        """See `Peer`."""
        environment.install(room, PACKAGES)

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`: it reads the checkpoint as it is."""
        return checkpoint

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`."""
        arguments = {
            "model": str(model),
            "how": setting.name,
            "threads": room.threads,
            # Left to itself it takes most of the memory for its cache.
            "blocks": 8 + len(load.prompts) * -(-load.longest // BLOCK),
        }
        log = room.directory / f"{setting.name}.log"
        with library.running(
            room.python, "benchmarks.peers.transformers", arguments, log
        ) as running:
            yield running


def _load(arguments: dict[str, Any]) -> tuple[dict[str, Any], library.Generate]:
    import torch
    import transformers

    torch.set_num_threads(arguments["threads"])
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        arguments["model"], dtype=torch.bfloat16
    )
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.generation_config.do_sample = False

    @torch.inference_mode()
    def plain(load: Load) -> list[int]:
        prompts = torch.tensor(load.prompts)
        wanted = load.outputs[0]
        said = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=wanted,
            min_new_tokens=wanted,
            do_sample=False,
        )
        return [said.shape[1] - prompts.shape[1]] * len(prompts)

    hello = {"version": transformers.__version__, "flags": [arguments["how"], "do_sample=False"]}
    if arguments["how"] == "generate":
        return hello, plain
    return hello, _continuous(model, arguments["blocks"])


def _continuous(model: Any, blocks: int) -> library.Generate:
    from transformers import ContinuousBatchingConfig

    config = ContinuousBatchingConfig(num_blocks=blocks)
    manager = model.init_continuous_batching(continuous_batching_config=config)
    manager.start()

    def generate(load: Load) -> list[int]:
        asked = [
            manager.add_request(list(prompt), max_new_tokens=wanted, eos_token_id=-1)
            for prompt, wanted in zip(load.prompts, load.outputs, strict=True)
        ]
        made: dict[str, int] = {}
        while len(made) < len(asked):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise NotMeasured("its continuous batching stopped")
            if result is not None and result.is_finished():
                made[result.request_id] = len(result.generated_tokens)
        return [made[name] for name in asked]

    return generate


if __name__ == "__main__":
    library.answer(_load)
