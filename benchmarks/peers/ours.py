"""Penstock: as a server against servers, as a library against libraries.

`python -m benchmarks.peers.ours` is the library's side.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import library
from benchmarks.peers.base import Class, Load, Room, Running, Setting
from benchmarks.peers.served import free_port, server

WEIGHTS = {"bf16": "plain", "int8": "int8", "int4": "int4"}
KV = {"bf16": "plain", "int8": "int8", "int4": "plain"}
MAX_RUNNING = 64


def _setting(kind: Class) -> Setting:
    weights = {
        "bf16": ("bf16", 16.0),
        "int8": ("int8 per channel", 8.0),
        "int4": ("int4 in groups of 128", 4.25),
    }[kind]
    return Setting(
        name=kind,
        kind=kind,
        weights=weights[0],
        weight_bits=weights[1],
        activations="bf16" if kind == "bf16" else "int8 by rows in products, else bf16",
        kv="int8 by token and head" if KV[kind] == "int8" else "bf16",
        kv_bits=8.25 if KV[kind] == "int8" else 16,
        arithmetic="bf16" if kind == "bf16" else "int8",
    )


class Ours:
    """See `Peer`. As a library it is asked like the peers that have no server."""

    name = "penstock"
    settings = (_setting("bf16"), _setting("int8"), _setting("int4"))

    def __init__(self, served: bool) -> None:
        self.served = served

    def install(self, room: Room) -> None:
        """See `Peer`: it is what runs this."""
        room.directory.mkdir(parents=True, exist_ok=True)

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`: it reads the checkpoint as it is."""
        return checkpoint

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`: the KV pool holds all of the load, a page more for each request."""
        options = {
            "weights": WEIGHTS[setting.kind],
            "kv": KV[setting.kind],
            "dtype": "bf16",
            "threads": room.threads,
            "max_running": MAX_RUNNING,
            "kv_tokens": load.tokens + 64 * len(load.prompts),
        }
        log = room.directory / f"{setting.name}-{'served' if self.served else 'library'}.log"
        if not self.served:
            arguments = {"model": str(model), "options": options}
            with library.running(
                Path(sys.executable), "benchmarks.peers.ours", arguments, log
            ) as running:
                yield running
            return
        from penstock import __version__

        port = free_port()
        words = [sys.executable, "-m", "penstock", "serve", str(model), "--port", str(port)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        with server(words, log, port=port, version=__version__) as running_server:
            yield running_server


def _load(arguments: dict[str, Any]) -> tuple[dict[str, Any], library.Generate]:
    import msgspec

    from penstock import __version__
    from penstock.engine.llm import LLM
    from penstock.engine.options import EngineOptions
    from penstock.engine.request import SamplingParams

    options = arguments["options"]
    llm = LLM(arguments["model"], EngineOptions(**options))

    def generate(load: Load) -> list[int]:
        prompts = [list(prompt) for prompt in load.prompts]
        asked = [
            SamplingParams(temperature=0.0, max_tokens=wanted, ignore_eos=True)
            for wanted in load.outputs
        ]
        return [len(done.choices[0].token_ids) for done in llm.generate(prompts, asked)]

    facts = msgspec.to_builtins(llm.engine.facts)
    flags = [f"{name}={value}" for name, value in options.items()]
    return {"version": __version__, "flags": flags, "facts": facts}, generate


if __name__ == "__main__":
    library.answer(_load)
