"""What a step of a model takes by its rows, measured when the engine starts."""

from __future__ import annotations

import time

import numpy as np
import torch

from penstock.engine.kv import KVStore
from penstock.engine.layout import Layout
from penstock.engine.model.decoder import Decoder
from penstock.engine.sampling import SamplingRows, sample
from penstock.engine.speculate.lengths import StepTable

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
ROUNDS = 4  # the first one warms up


@torch.inference_mode()
def step_table(decoder: Decoder, kv: KVStore, most: int) -> StepTable:
    """Seconds of steps of up to about `most` rows, each with its logits and a draw.

    Computed over the last page of `kv`, whose content is lost. The best of a few
    rounds: what else runs on the machine only ever adds. Contexts are short, so the
    time of attention to long ones, the same with guesses and without, is left out.
    """
    rows = [count for count in ROWS if count <= max(most, 2)]
    times = [[_seconds(decoder, kv, count) for count in rows] for _ in range(ROUNDS)]
    return StepTable(rows, np.min(times[1:], axis=0).tolist())


def _seconds(decoder: Decoder, kv: KVStore, rows: int) -> float:
    size = kv.page_size
    layout = Layout(
        np.zeros(rows, np.int64),
        np.full(rows, size - 1),
        np.full((1, 1), kv.pages - 1),
        np.zeros(rows, np.int64),
        page_size=size,
        device=decoder.device,
    )
    greedy = np.zeros(rows, np.float32)
    zeros = np.zeros(rows, np.int64)
    parameters = SamplingRows(greedy, zeros, greedy + 1, greedy, zeros, zeros)
    begun = time.perf_counter()
    sample(decoder.forward(layout.batch(), kv), parameters, decoder.kernels.draw).numpy(force=True)
    return time.perf_counter() - begun
