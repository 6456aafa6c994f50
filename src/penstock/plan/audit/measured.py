"""Measured serving points that others have published, to hold claims against.

The table (`data/measured.csv`) is made by `tools/make_measured_points.py` from
measurements of ai-dynamo/aiconfigurator (Apache-2.0), the performance pages of
NVIDIA/TensorRT-LLM (Apache-2.0) and of ggml-org/llama.cpp (MIT).
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measured operating point; None is unknown. Rates in tokens/s.

    `concurrency` requests were in flight on `devices`; each of them saw
    `user` output tokens/s between its first and last, all together `system`
    output tokens/s over whole requests, or `prefill` prompt tokens/s.
    `mode` says how: aggregated serving, prefill and decode split, everything
    queued at once, or one batch in lockstep.
    """

    model: str
    device: str
    precision: str
    devices: int
    mode: Literal["agg", "disagg", "offline", "batched"]
    concurrency: int | None
    prompt: int
    output: int
    user: float | None
    system: float | None
    prefill: float | None
    software: str
    source: str

    @property
    def running(self) -> float | None:
        """Requests whose answers were being written at once, by Little's law; the rest waited."""
        return self.system / self.user if self.system and self.user else self.concurrency


@cache
def points() -> tuple[Measured, ...]:
    """All points of the shipped table."""
    text = files("penstock.plan.audit").joinpath("data", "measured.csv").read_text(encoding="utf-8")
    rows = ({k: v or None for k, v in row.items()} for row in csv.DictReader(text.splitlines()))
    return tuple(msgspec.convert(row, Measured, strict=False) for row in rows)
