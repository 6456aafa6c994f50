"""CTranslate2: static batches in int8.

`python -m benchmarks.peers.ctranslate2` is the side that runs in its environment.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import environment, library
from benchmarks.peers.base import Load, Room, Running, Setting

PACKAGES = ("ctranslate2==4.8.5", "transformers==5.23.0")


class CTranslate2:
    """See `Peer`."""

    name = "ctranslate2"
    served = False
    settings = (
        Setting(
            name="int8",
            kind="int8",
            weights="int8 per channel",
            weight_bits=8,
            activations="int8 by rows, else fp32",
            kv="fp32",
            kv_bits=32,
            arithmetic="int8",
            flags=("compute_type=int8_float32", "static_prompt where prompts share one"),
            workloads="ABCP",  # a batch has one length
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
                convert = [str(room.python.parent / "ct2-transformers-converter")]
                convert += ["--model", str(checkpoint), "--output_dir", str(out)]
                convert += ["--quantization", "int8_float32"]
                environment.command(convert, room.directory / "convert.log")
        return path

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`."""
        arguments = {"model": str(model), "threads": room.threads}
        log = room.directory / f"{setting.name}.log"
        with library.running(
            room.python, "benchmarks.peers.ctranslate2", arguments, log
        ) as running:
            yield running


def _load(arguments: dict[str, Any]) -> tuple[dict[str, Any], library.Generate]:
    import ctranslate2

    model = ctranslate2.Generator(
        arguments["model"],
        device="cpu",
        compute_type="int8_float32",
        intra_threads=arguments["threads"],
        inter_threads=1,
    )
    words = json.loads((Path(arguments["model"]) / "vocabulary.json").read_bytes())

    def generate(load: Load) -> list[int]:
        spelled = [[words[id_] for id_ in prompt] for prompt in load.prompts]
        wanted = load.outputs[0]
        said = model.generate_batch(
            [prompt[load.shared :] for prompt in spelled],
            static_prompt=spelled[0][: load.shared] or None,
            cache_static_prompt=False,  # another run's prompts share another
            max_length=wanted,
            min_length=wanted,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [len(one.sequences_ids[0]) for one in said]

    flags = ["compute_type=int8_float32", f"intra_threads={arguments['threads']}"]
    return {"version": ctranslate2.__version__, "flags": flags}, generate


if __name__ == "__main__":
    library.answer(_load)
