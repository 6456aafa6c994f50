"""llama.cpp: `llama-server`, built here with native flags from llama-cpp-python's sources."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import environment
from benchmarks.peers.base import Load, NotMeasured, Room, Running, Setting
from benchmarks.peers.served import free_port, server

SOURCES = "llama-cpp-python==0.3.36"
PACKAGES = ("cmake", "ninja", "gguf", "numpy", "protobuf", "sentencepiece", "transformers")
BUILD = (
    *("-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_OPENMP=ON"),
    *("-DBUILD_SHARED_LIBS=ON", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_UI=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_CURL=OFF"),
)
PROGRAMS = ("llama-server", "llama-bench", "llama-quantize")
SLOTS = 32

# The converter knows tokenizers by what they make of a test text, and ours is none
# of those. How text is cut does not matter here: prompts are token ids.
CONVERT = """
import runpy, sys
source, *arguments = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
import conversion.base as base
for kind in vars(base).values():
    if isinstance(kind, type) and "get_vocab_base_pre" in vars(kind):
        kind.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(source + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def _quantized(name: str, bits: float, kind: Any) -> Setting:
    return Setting(
        name=name,
        kind=kind,
        weights=name,
        weight_bits=bits,
        activations="int8 by blocks" if kind != "bf16" else "bf16",
        kv="f16",
        kv_bits=16,
        arithmetic="bf16" if kind == "bf16" else "int8",
    )


class LlamaCpp:
    """See `Peer`."""

    name = "llama.cpp"
    served = True
    # Bits a weight with its block's scales: ggml's block sizes.
    settings = (
        _quantized("Q8_0", 8.5, "int8"),
        _quantized("Q4_0", 4.5, "int4"),
        _quantized("Q4_K_M", 4.85, "int4"),
        _quantized("BF16", 16, "bf16"),
    )

    def install(self, room: Room) -> None:
        """See `Peer`: takes long, for it compiles."""
        environment.install(room, PACKAGES)
        if all((room.directory / "build" / "bin" / name).is_file() for name in PROGRAMS):
            return
        log = room.directory / "build.log"
        pip = [str(room.python), "-m", "pip", "download", "--no-deps"]
        environment.command(
            [*pip, "--no-binary", "llama-cpp-python", "--dest", str(room.directory), SOURCES], log
        )
        if not _sources(room).is_dir():
            with tarfile.open(next(room.directory.glob("llama_cpp_python-*.tar.gz"))) as archive:
                archive.extractall(room.directory, filter="data")
        build, cmake = str(room.directory / "build"), str(room.python.parent / "cmake")
        ninja = f"-DCMAKE_MAKE_PROGRAM={room.python.parent / 'ninja'}"
        environment.command([cmake, "-S", str(_sources(room)), "-B", build, *BUILD, ninja], log)
        environment.command(
            [cmake, "--build", build, "-j", str(room.threads), "--target", *PROGRAMS], log
        )

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """See `Peer`: through a file in bf16."""
        plain = room.directory / f"{checkpoint.name}-BF16.gguf"
        log = room.directory / "convert.log"
        if not plain.is_file():
            with environment.fresh(plain) as out:
                convert = [str(room.python), "-c", CONVERT, str(_sources(room)), str(checkpoint)]
                environment.command([*convert, "--outfile", str(out), "--outtype", "bf16"], log)
        path = room.directory / f"{checkpoint.name}-{setting.name}.gguf"
        if not path.is_file():
            with environment.fresh(path) as out:
                quantize = str(room.directory / "build" / "bin" / "llama-quantize")
                environment.command([quantize, str(plain), str(out), setting.weights], log)
        return path

    @contextlib.contextmanager
    def start(self, room: Room, model: Path, setting: Setting, load: Load) -> Iterator[Running]:
        """See `Peer`: each slot has room for the longest request."""
        slots, port = min(SLOTS, len(load.prompts)), free_port()
        context = slots * -(-(load.longest + 8) // 64) * 64
        threads = str(room.threads)
        words = [
            *(str(room.directory / "build" / "bin" / "llama-server"), "-m", str(model)),
            *("-t", threads, "-tb", threads, "-np", str(slots), "-cb", "-c", str(context)),
            *("--host", "127.0.0.1", "--port", str(port), "--offline"),
        ]
        # One sampler that leaves one token: the chain of the default ones takes time.
        asking = {"samplers": ["top_k"], "top_k": 1, "cache_prompt": True}
        log = room.directory / f"server-{setting.name}.log"
        with server(words, log, asking=asking, port=port, version=self.version(room)) as running:
            yield running

    def version(self, room: Room) -> str:
        """What the server calls itself."""
        program = str(room.directory / "build" / "bin" / "llama-server")
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        lines = (said.stdout + said.stderr).splitlines()
        found = next((line for line in lines if line.startswith("version")), "unknown")
        return f"{SOURCES}, {found}"

    def bench(self, room: Room, model: Path) -> list[dict[str, Any]]:
        """What `llama-bench` says of 128 and 512 prompt tokens and 128 of output: tokens/s."""
        program = str(room.directory / "build" / "bin" / "llama-bench")
        sizes = ["-p", "128,512", "-n", "128", "-t", str(room.threads), "-r", "3", "-o", "json"]
        done = subprocess.run(
            [program, "-m", str(model), *sizes], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotMeasured(f"llama-bench failed: {done.stderr.strip()[-300:]}")
        wanted = ("n_prompt", "n_gen", "avg_ts", "stddev_ts")
        return [{name: row[name] for name in wanted} for row in json.loads(done.stdout)]


def _sources(room: Room) -> Path:
    found = sorted(room.directory.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[0] if found else room.directory / "sources"
