"""The clock, read at the borders of a step's stages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import torch
from torch import Tensor

from penstock.engine.engine import Engine
from penstock.engine.kernels.linear import Linear
from penstock.engine.kv import KVStore
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.decoder import Decoder
from penstock.engine.model.layer import Layer

StageName = Literal["schedule", "prepare", "embed", "attention", "feed-forward", "head", "sample"]
Key = tuple[StageName, int | None]  # the stage, and its layer if it is in one
Timed = tuple[float, dict[Key, float]]  # seconds of a step, and of its stages in order


@dataclass(slots=True)
class Watched:
    """Clock readings of a decoder's last `forward`, in seconds, and the logits it gave.

    At its start, where each layer's attention begins and its feed-forward,
    where the head begins, and at its end.
    """

    readings: list[float] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))


class _Stamped:
    """A matrix that notes when the stream comes to it."""

    def __init__(self, matrix: Linear, watched: Watched) -> None:
        self._matrix = matrix
        self._watched = watched

    def __call__(self, x: Tensor) -> Tensor:
        self._watched.readings.append(time.perf_counter())
        return self._matrix(x)

    def gated(self, x: Tensor) -> Tensor:
        self._watched.readings.append(time.perf_counter())
        return self._matrix.gated(x)

    def logits(self, x: Tensor) -> Tensor:
        self._watched.readings.append(time.perf_counter())
        return self._matrix.logits(x)


@contextmanager
def watching(decoder: Decoder) -> Iterator[Watched]:
    """Read the clock at the borders of a decoder's stages, on the CPU.

    Each stage begins with a product of the stream, so it is those matrices that are
    wrapped, and only while the context lasts: the decoder's code knows nothing of
    it. A reading takes well under a microsecond.
    """
    watched = Watched()

    def forward(batch: StepBatch, kv: KVStore) -> Tensor:
        watched.readings = [time.perf_counter()]
        watched.logits = plain(batch, kv)
        watched.readings.append(time.perf_counter())
        return watched.logits

    plain = decoder.forward
    borders: list[tuple[Layer | Decoder, str]] = [
        (layer, name) for layer in decoder.layers for name in ("qkv", "gate_up")
    ]
    borders.append((decoder, "head"))
    matrices: list[Linear] = [getattr(owner, name) for owner, name in borders]
    for (owner, name), matrix in zip(borders, matrices, strict=True):
        setattr(owner, name, _Stamped(matrix, watched))
    vars(decoder)["forward"] = forward
    try:
        yield watched
    finally:
        del vars(decoder)["forward"]
        for (owner, name), matrix in zip(borders, matrices, strict=True):
            setattr(owner, name, matrix)


def timed_step(engine: Engine, watched: Watched) -> Timed:
    """Run one step of an engine whose decoder is watched.

    Raises `RuntimeError` with the reason when the step fails.
    """
    before = msgspec.structs.replace(engine.spent)
    started = time.perf_counter()
    deltas = engine.step()
    whole = time.perf_counter() - started
    for delta in deltas:
        if delta.error is not None:
            raise RuntimeError(delta.error)
    after, readings = engine.spent, watched.readings
    stages: list[Key] = [("embed", None)]
    for layer in range(len(readings) // 2 - 1):
        stages += [("attention", layer), ("feed-forward", layer)]
    stages.append(("head", None))
    spans = [end - start for start, end in itertools.pairwise(readings)]
    return whole, {
        ("schedule", None): after.schedule - before.schedule + after.account - before.account,
        ("prepare", None): after.prepare - before.prepare,
        **dict(zip(stages, spans, strict=True)),
        ("sample", None): after.sample - before.sample,
    }
