"""Speculative decoding: how often guesses come true, and what they are worth at a real size.

    python -m benchmarks.speculation --shape qwen3-0.6b --draft-shape qwen3-0.6b-draft

Acceptance is measured on the embedded model and held-out library code, greedy and
drawn at temperature 1, for each source of guesses and by position in the guess.
Speed is measured on a synthetic checkpoint of a real shape, whose own text means nothing:
there the acceptance of greedy text is *replayed*, of the draft model that of drawn text too.
Every step draws what one step of the embedded model had to offer and how much of it came
true; the guesses are then set right and wrong accordingly. All else is done: texts are
searched, the draft model runs, guesses are verified, and as many are made as the engine
thinks pay. "hostile" replays guesses that are offered and never come true.

Rounds interleave; ratios are of tokens per second against no guesses, in the run
before. What was learnt of guesses is kept from round to round, as a server keeps it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.progress import track
from scipy import stats

from benchmarks.common import arguments, conditions, publish, requests, spread
from penstock.ablate.replay import MOST, Recorder, Replay, Step
from penstock.compress.corpus import held_out
from penstock.engine.engine import Engine
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions, Speculate
from penstock.engine.request import SamplingParams
from penstock.engine.speculate.copying import Lookup, Suffix
from penstock.engine.speculate.speculator import Speculator

SOURCES: tuple[Speculate, ...] = ("lookup", "suffix", "draft")
PROMPT, OUTPUT, TEXTS = 256, 64, 128  # of the acceptance runs, in tokens and texts


def acceptance(source: Speculate, temperature: float) -> tuple[dict[str, Any], list[Step]]:
    """Guess as much as there is to guess, on held-out code; what came true."""
    options = EngineOptions(max_running=8, speculate=source, draft_tokens=MOST[source])
    llm = LLM("embedded", options)
    assert llm.engine.speculator is not None
    llm.engine.speculator.drafter = recorder = Recorder(llm.engine.speculator.drafter)
    rows = held_out(llm.tokenizer.encode, PROMPT - 1, TEXTS).tolist()
    llm.generate(
        rows,
        [
            SamplingParams(temperature=temperature, seed=i, max_tokens=OUTPUT, ignore_eos=True)
            for i in range(len(rows))
        ],
    )
    figures = llm.engine.stats()
    steps = recorder.steps
    return {
        "sequence_steps": len(steps),
        "with_an_offer": round(np.mean([bool(kinds) for kinds, _ in steps]), 4),
        "tokens_per_step": round(1 + np.mean([right for _, right in steps]), 4),
        "guessed_by_position": figures.guessed,
        "right_by_position": figures.guessed_right,
        # Of guesses whose predecessors all came true.
        "acceptance_by_position": [
            round(right / made, 4)
            for made, right in zip(
                [figures.drafts, *figures.guessed_right], figures.guessed_right, strict=False
            )
            if made >= 50
        ],
    }, steps


@contextmanager
def guessing(engine: Engine, speculator: Speculator | None) -> Iterator[None]:
    """Let an engine guess by this one, or not at all."""
    had = engine.speculator
    engine.speculator = speculator
    try:
        yield
    finally:
        engine.speculator = had


class Bench:
    """One model of a real shape: how fast a batch goes through it, guesses or not."""

    def __init__(self, model: str, draft: str, options: EngineOptions) -> None:
        speculate = msgspec.structs.replace(options, speculate="draft", draft_model=draft)
        self.engine = Engine.load(model, speculate)
        assert self.engine.speculator is not None
        self.draft_model = self.engine.speculator.drafter
        self.step = self.engine.speculator.step  # seconds by rows
        self.truths: dict[tuple[tuple[int, ...], int], list[int]] = {}  # by prompt and seed

    def run(self, batch: int, output: int, speculator: Speculator | None) -> float:
        """Output tokens per second of `batch` requests side by side, once all are prefilled.

        Raises `RuntimeError` if they say anything else than the first time.
        """
        engine = self.engine
        work = requests(engine, [output] * batch, prompt=32, seed=batch)
        texts = {request.id: list(request.prompt) for request in work}
        started, before = 0.0, 0
        with guessing(engine, speculator):
            for request in work:
                engine.submit(request)
            while engine.has_work:
                if not started and not engine.scheduler.pending:
                    started, before = time.perf_counter(), engine.stats().output_tokens
                for delta in engine.step():
                    texts[delta.request_id] += delta.token_ids
            seconds = time.perf_counter() - started
        for request in work:
            key = tuple(request.prompt), request.params.seed or 0
            if self.truths.setdefault(key, texts[request.id]) != texts[request.id]:
                raise RuntimeError(f"request {request.id} said something else with guesses.")
        return (engine.stats().output_tokens - before) / seconds


def ratio(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Geometric mean of the ratios, and its 95 % interval by t."""
    logs = np.log([new / old for new, old in pairs])
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    middle = logs.mean()
    low, mean, high = np.exp([middle - half, middle, middle + half])
    return {"ratio": round(mean, 4), "low95": round(low, 4), "high95": round(high, 4)}


def replayed(description: str | None) -> argparse.ArgumentParser:
    """Options of what replays acceptance on a real shape."""
    parser = arguments(description)
    parser.add_argument("--shape", default="qwen3-0.6b", help="a checkpoint of random weights")
    parser.add_argument(
        "--draft-shape", default="qwen3-0.6b-draft", help="its draft model, random too"
    )
    parser.add_argument("--weights", default="int8", choices=["plain", "int8", "int4"])
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    return parser


def main() -> None:
    """Measure acceptance, replay it, publish."""
    parser = replayed(__doc__)
    parser.add_argument("--fixed", default="2,4", help="draft lengths to try, draft model only")
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--acceptance-only", action="store_true")
    given = parser.parse_args()
    measured = {source: acceptance(source, 0.0) for source in SOURCES}
    result: dict[str, Any] = {
        "acceptance": {
            "conditions": f"embedded model, held-out library code, {TEXTS} texts, {PROMPT} tokens "
            f"in, {OUTPUT} out",
            "greedy": {source: figures for source, (figures, _) in measured.items()},
            "drawn": {source: acceptance(source, 1.0)[0] for source in SOURCES},
        }
    }
    if given.acceptance_only:
        publish(result, given.out)
        return
    options = EngineOptions(weights=given.weights, kv="int8", max_running=32, kv_tokens=32 * 512)
    bench = Bench(given.shape, given.draft_shape, options)
    draft, drawn = measured["draft"][1], acceptance("draft", 1.0)[1]
    modes: dict[str, tuple[Replay, int | None]] = {
        "draft model": (Replay(bench.draft_model, draft), None),
        "draft model, drawn text": (Replay(bench.draft_model, drawn), None),
        "lookup": (Replay(Lookup(), measured["lookup"][1]), None),
        "suffix": (Replay(Suffix(), measured["suffix"][1]), None),
        "hostile, draft model": (
            Replay(bench.draft_model, [(kinds, 0) for kinds, _ in draft]), None),
        "hostile, text": (Replay(Suffix(), [((8,) * 16, 0)]), None),
        **{
            f"draft model, always {count}": (
                Replay(bench.draft_model, draft), int(count))
            for count in given.fixed.split(",")
        },
    }  # fmt: skip
    rows = []
    for batch in [int(count) for count in given.batches.split(",")]:
        bench.run(batch, given.output, None)  # warms up, and tells the texts
        pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
        speculators = {
            name: Speculator(replay, bench.step, fixed) for name, (replay, fixed) in modes.items()
        }
        for replay, _ in modes.values():
            replay.truths = bench.truths
        plain_speeds = []
        for _ in track(range(given.rounds), f"{batch} at once"):
            for place, (name, speculator) in enumerate(speculators.items()):
                if place % 2 == 0:
                    plain_speeds.append(bench.run(batch, given.output, None))
                speed = bench.run(batch, given.output, speculator)
                pairs[name].append((speed, plain_speeds[-1]))
        rows.append(
            {
                "batch": batch,
                "plain_tokens_per_s": spread(plain_speeds),
                "speedup": {name: ratio(found) for name, found in pairs.items()},
            }
        )
    engine, step = bench.engine, bench.step
    result["replayed"] = {
        "conditions": conditions(engine)
        | {"weights": given.weights, "kv": "int8", "prompt": 32, "output": given.output}
        | {"draft": Path(given.draft_shape).name},
        "step_ms": {
            str(n): [round(1e3 * step(n), 2), round(1e3 * bench.draft_model.seconds(n), 2)]
            for n in (1, 2, 4, 8, 16, 32)
        },
        "rows": rows,
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
