"""The workloads: what is asked, all of it at once. Prompts are random token ids."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.base import Load

FIRST_ID = 1  # 0 is the end of text


def prompts(seed: str, lengths: list[int], vocab: int) -> list[list[int]]:
    """Prompts of such lengths that no other seed gives."""
    rng = random.Random(seed)
    return [[rng.randrange(FIRST_ID, vocab) for _ in range(length)] for length in lengths]


def single(seed: str, vocab: int, prompt: int, output: int) -> Load:
    """One request."""
    return Load(prompts(seed, [prompt], vocab), [output])


def many(seed: str, vocab: int) -> Load:
    """B: 32 requests of 128 tokens, 128 wanted of each."""
    return Load(prompts(seed, [128] * 32, vocab), [128] * 32)


def sharing(seed: str, vocab: int) -> Load:
    """C: 64 requests of 512 shared and 32 own tokens, 64 wanted of each."""
    prefix = prompts(f"{seed} shared", [512], vocab)[0]
    own = prompts(seed, [32] * 64, vocab)
    return Load([prefix + tokens for tokens in own], [64] * 64, shared=512)


def chat(seed: str, vocab: int, trace: Path) -> Load:
    """D: 48 requests with lengths from Azure's conversations of 2023, at most 1,024 and 256.

    The lengths are the same for every seed. Raises `OSError` or `ValueError`
    for a trace that cannot be read.
    """
    from penstock.workload.traces import read_trace

    rows = read_trace(trace)
    chosen = random.Random("lengths").sample(range(len(rows)), 48)
    lengths = [min(int(rows.prompt_tokens[i]), 1024) for i in chosen]
    outputs = [min(int(rows.output_tokens[i]), 256) for i in chosen]
    return Load(prompts(seed, lengths, vocab), outputs)


def maker(letter: str, vocab: int, trace: Path | None) -> Callable[[str], Load]:
    """How to make a workload's load from a seed. A and P give the one request they time.

    Raises `ValueError` for D without a trace.
    """
    match letter:
        case "A":
            return lambda seed: single(seed, vocab, 128, 128)
        case "B":
            return lambda seed: many(seed, vocab)
        case "C":
            return lambda seed: sharing(seed, vocab)
        case "D":
            if trace is None:
                raise ValueError(
                    "workload D has lengths from azure2023_conv.csv; say where with --trace"
                )
            return lambda seed: chat(seed, vocab, trace)
        case "P":
            return lambda seed: single(seed, vocab, 2048, 1)
        case _:
            raise ValueError(f"workload {letter!r} is none of A, B, C, D, P")
