"""Checkpoints of random weights at real shapes: their speed is real, their answers are noise."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from penstock.models.shapes import Shape
from penstock.models.vocabulary import tokenizer

# Of a `dtype`: what safetensors and transformers call it, and bytes a weight.
DTYPES = {"bf16": ("BF16", "bfloat16", 2), "fp32": ("F32", "float32", 4)}
SHARD_BYTES = 5_000_000_000
STD = 0.02
_PIECE = 1 << 22  # weights drawn at once: memory stays small whatever the tensor

Tensors = list[tuple[str, tuple[int, ...]]]
Progress = Callable[[int, int], object]


def make(
    shape: Shape,
    directory: Path,
    *,
    dtype: str = "bf16",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint in Hugging Face layout: normal weights (std 0.02), norms 1.

    The same shape, dtype and seed give the same bytes. `progress(done, total)`
    hears of bytes written. The directory appears when it is whole: an
    interruption or an error leaves nothing behind. Raises `ValueError` for a
    directory that exists, an unknown dtype or a vocabulary that is too small,
    `OSError` if there is no room.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}.")
    if directory.exists():
        raise ValueError(f"{directory} exists; remove it, or choose another directory with --out.")
    files = _files(shape, dtype)
    total = shape.parameters * DTYPES[dtype][2]
    directory.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(directory.parent).free) < 1.01 * total:
        raise OSError(
            f"the checkpoint takes {total / 1e9:.1f} GB and {directory.parent} has "
            f"{free / 1e9:.1f} GB free; make room, or choose another directory with --out."
        )
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        unfinished.chmod(0o755)  # mkdtemp's is for this user alone
        for name, content in files.items():
            (unfinished / name).write_text(_json(content), encoding="utf-8")
        _write_weights(
            shape, unfinished, dtype, seed=seed, progress=progress, shard_bytes=shard_bytes
        )
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _files(shape: Shape, dtype: str) -> dict[str, Any]:
    content, settings = tokenizer(shape.vocab)
    return {
        "config.json": shape.config(DTYPES[dtype][1]),
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
        "tokenizer.json": content,
        "tokenizer_config.json": settings | {"model_max_length": shape.positions},
    }


def _write_weights(
    shape: Shape, directory: Path, dtype: str, *, seed: int, progress: Progress, shard_bytes: int
) -> None:
    """`model.safetensors`, or shards and their index where it would be larger than a shard."""
    width = DTYPES[dtype][2]
    total = shape.parameters * width
    shards = _shards(shape, width, shard_bytes)
    done = index = 0
    where: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (directory / file).open("wb") as out:
            _write_header(out, tensors, dtype)
            for name, size in tensors:
                where[name] = file
                for piece in _values(name, math.prod(size), (seed, index)):
                    data = piece if dtype == "fp32" else _bf16(piece)
                    out.write(data.data)
                    done += data.nbytes
                    progress(done, total)
                index += 1
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(_json(content), encoding="utf-8")


def _shards(shape: Shape, width: int, shard_bytes: int) -> list[Tensors]:
    shards: list[Tensors] = [[]]
    room = shard_bytes
    for name, size in shape.tensors():
        nbytes = math.prod(size) * width
        if nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append((name, size))
        room -= nbytes
    return shards


def _write_header(out: BinaryIO, tensors: Tensors, dtype: str) -> None:
    """Length and JSON of the safetensors format, whose library wants a whole shard in memory."""
    called, _, width = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, size in tensors:
        end = start + math.prod(size) * width
        header[name] = {"dtype": called, "shape": size, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned
    out.write(len(text).to_bytes(8, "little") + text)


def _values(name: str, count: int, seed: tuple[int, int]) -> Iterator[npt.NDArray[np.float32]]:
    """A tensor's weights, piece by piece."""
    random = np.random.default_rng(seed)
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        if "norm" in name:
            yield np.ones(size, np.float32)
        else:
            yield random.standard_normal(size, np.float32) * np.float32(STD)


def _bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each fp32, rounded to nearest, ties to even (no value here is NaN)."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
