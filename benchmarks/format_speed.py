"""What int8 and int4 give in speed: weights by rows, K and V by context, and a prompt in each.

    penstock models make qwen3-0.6b
    python -m benchmarks.format_speed --out benchmarks/results/format_speed.json

Steps of the decoder alone, on the 0.6 B shape. `weights`: decode steps of so many rows, each
at a short context, K and V in bf16. `kv`: decode steps with weights in int8, over K and V that
were written beforehand (random numbers), and `attention`, what they spend in it. `prompt`: one
prompt, by the format of the weights, and by that of K and V with weights in int8.

The formats of one point stand next to each other in every round, forwards and backwards in
turn, so that what disturbs one disturbs all; ratios are taken within rounds. Beside each time
is the least that this machine's measured rates allow: its bytes read or its operations done,
whichever takes longer. A run goes on from the rounds that --out holds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.common import Study, arguments, described, spread
from benchmarks.peers.ceiling import Cost, Rates, measured
from benchmarks.step_time import PAGE_SIZE, decodes
from penstock import models
from penstock.engine import facts
from penstock.engine.kernels.choose import choose
from penstock.engine.kv import KVPages, KVStore
from penstock.engine.model import loader
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder, Step
from penstock.engine.model.layer import Layer
from penstock.engine.options import EngineOptions
from penstock.engine.request import ModelFacts
from penstock.predict.roofline import Shape, decode_flops, prefill_flops, step_bytes

Format = Literal["bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("bf16", "int8", "int4")
ASKED: dict[Format, Literal["plain", "int8", "int4"]] = {
    "bf16": "plain",
    "int8": "int8",
    "int4": "int4",
}

ROWS, SHORT = (1, 2, 4, 8, 16, 32), 64  # of steps by the format of weights; tokens of context
KV_ROWS, CONTEXTS = (1, 8), (256, 1024, 4096)  # of steps by the format of K and V
PROMPT = 512  # tokens
LEAST_S = 0.25  # a measurement is repeated for as long


class Timed:
    """A decoder's step that adds up the seconds it attends."""

    def __init__(self, step: Step, spent: list[float]) -> None:
        self._step, self._spent = step, spent

    def attend(self, layer: Layer, y: Tensor, pages: KVPages) -> Tensor:
        """See `Step`."""
        began = time.perf_counter()
        out = self._step.attend(layer, y, pages)
        self._spent.append(time.perf_counter() - began)
        return out

    def store(self, layer: Layer, kv: Tensor, pages: KVPages) -> None:
        """See `Step`."""
        self._step.store(layer, kv, pages)


class Loaded:
    """A model in formats, with a pool of so many tokens whose K and V are random numbers."""

    def __init__(self, model: str, weights: Format, kv: Format, tokens: int, threads: int) -> None:
        directory = models.path(model)
        config = ModelConfig.load(directory)
        options = EngineOptions(weights=ASKED[weights], kv=ASKED[kv], kv_tokens=tokens)
        kernels = choose(
            config,
            dtype=torch.bfloat16,
            device="cpu",
            page_size=PAGE_SIZE,
            weights=options.weights,
            kv=options.kv,
        )
        torch.set_num_threads(threads)
        kernels.threads(threads)
        self._decoder = loader.load_weights(config, directory, torch.bfloat16, "cpu", kernels)
        self.facts = facts.gather(model, self._decoder, options)
        layers, dtype = self._decoder.kv_layers(), self._decoder.dtype
        self._kv = KVStore(layers, self.facts.pages, PAGE_SIZE, dtype, "cpu", storage=kernels.pages)
        slots = torch.arange(self.facts.pages * PAGE_SIZE)
        for index, layer in enumerate(layers):
            if layer.shares is None:
                for start in range(0, len(slots), 2048):
                    some = slots[start : start + 2048]
                    numbers = torch.randn(len(some), 2 * layer.heads, layer.head_dim, dtype=dtype)
                    self._kv.layer(index).write(some, numbers)
        self._attended = _clocked(self._decoder)

    def run(self, batch: StepBatch) -> None:
        """One step."""
        self._decoder.forward(batch, self._kv)

    def milliseconds(self, batch: StepBatch) -> tuple[float, float]:
        """Of a step, and of all its attention: means over `LEAST_S`."""
        self._attended.clear()
        began, steps, passed = time.perf_counter(), 0, 0.0
        while passed < LEAST_S:
            self.run(batch)
            steps += 1
            passed = time.perf_counter() - began
        return 1e3 * passed / steps, 1e3 * sum(self._attended) / steps


def _clocked(decoder: Decoder) -> list[float]:
    """Have each layer's attention of a decoder's steps timed: the seconds, as they come."""
    plain, spent = decoder._step, list[float]()
    vars(decoder)["_step"] = lambda batch, kv: Timed(plain(batch, kv), spent)
    return spent


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step, by format; and the work that it, and its attention, cannot do without."""

    part: str
    at: str
    batch: StepBatch
    loaded: Mapping[Format, Loaded]
    work: Callable[[ModelFacts], Cost]
    attention: Callable[[ModelFacts], Cost] | None = None  # None: not asked for


def points(model: str, threads: int) -> list[Point]:
    """All that is measured."""
    few, many = max(max(ROWS) * SHORT, PROMPT), max(max(KV_ROWS) * max(CONTEXTS), PROMPT)
    common = Loaded(model, "int8", "bf16", max(few, many), threads)
    by_weights = {
        kind: common if kind == "int8" else Loaded(model, kind, "bf16", few, threads)
        for kind in FORMATS
    }
    by_kv = {
        kind: common if kind == "bf16" else Loaded(model, "int8", kind, many, threads)
        for kind in FORMATS
    }

    def step(rows: int, context: int) -> Callable[[ModelFacts], Cost]:
        return lambda about: Cost(
            step_bytes(_shape(about), rows, context), rows * decode_flops(_shape(about), context)
        )

    def attention(tokens: int) -> Callable[[ModelFacts], Cost]:
        return lambda about: Cost(tokens * about.kv_bytes_per_token, tokens * about.attention_flops)

    return [
        *(
            Point(
                part="weights",
                at=f"{rows}",
                batch=decodes(rows, SHORT),
                loaded=by_weights,
                work=step(rows, SHORT),
            )
            for rows in ROWS
        ),
        *(
            Point(
                part="kv",
                at=f"{rows} x {context}",
                batch=decodes(rows, context),
                loaded=by_kv,
                work=step(rows, context),
                attention=attention(rows * context),
            )
            for rows in KV_ROWS
            for context in CONTEXTS
        ),
        *(
            Point(part="prompt", at=at, batch=_prompt(), loaded=loaded, work=_prompt_work)
            for at, loaded in (("weights", by_weights), ("kv", by_kv))
        ),
    ]


def _prompt() -> StepBatch:
    """One prompt, of which the last row's logits are wanted."""
    slots = torch.arange(PROMPT)
    return StepBatch(
        tokens=slots + 100,
        positions=slots,
        slots=slots,
        decodes=0,
        decode_tables=torch.zeros(0, 0, dtype=torch.int64),
        decode_contexts=torch.zeros(0, dtype=torch.int64),
        max_decode_context=0,
        prefills=[PrefillSpan(0, PROMPT, torch.arange(-(-PROMPT // PAGE_SIZE)), PROMPT)],
        logit_rows=slots[-1:],
    )


def _prompt_work(about: ModelFacts) -> Cost:
    flops = PROMPT * prefill_flops(_shape(about), PROMPT) + about.head_flops
    return Cost(about.weight_bytes, flops)


def _shape(about: ModelFacts) -> Shape:
    return Shape(
        weight_bytes=about.weight_bytes,
        flops_per_token=about.flops_per_token,
        head_flops=about.head_flops,
        attention_flops=about.attention_flops,
        kv_bytes_per_token=about.kv_bytes_per_token,
    )


@torch.inference_mode()
def measure(study: Study, every: list[Point], rounds: int) -> None:
    """Add rounds to those that the study holds, until there are so many of each point."""
    missing = [point for point in every if _held(study, point) < rounds]
    for point in missing:  # sets the kernels up
        for kind in FORMATS:
            point.loaded[kind].run(point.batch)
    for number in range(rounds):
        for point in missing:
            if _held(study, point) > number:
                continue
            for kind in FORMATS[:: 1 if number % 2 == 0 else -1]:
                path = ("rounds", point.part, point.at, kind)
                before = _at(study, *path) if study.has(*path) else []
                found = [round(ms, 4) for ms in point.loaded[kind].milliseconds(point.batch)]
                study.put(*path, value=[*before[:number], found])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)


def _held(study: Study, point: Point) -> int:
    """Rounds that are whole."""
    paths = [("rounds", point.part, point.at, kind) for kind in FORMATS]
    return min(len(_at(study, *path)) if study.has(*path) else 0 for path in paths)


def _at(study: Study, *path: str) -> list[list[float]]:
    found: Any = study.result
    for name in path:
        found = found[name]
    return list(found)


def summarize(study: Study, every: list[Point], rates: Rates) -> None:
    """Each format's times, over those of bf16, and beside the least."""
    for point in every:
        held = {kind: _at(study, "rounds", point.part, point.at, kind) for kind in FORMATS}
        abouts = {kind: point.loaded[kind].facts for kind in FORMATS}
        parts = [(point.part, 0, point.work)]
        if point.attention is not None:
            parts.append(("attention", 1, point.attention))
        for part, which, work in parts:
            ms = {kind: [both[which] for both in rounds] for kind, rounds in held.items()}
            for kind in FORMATS:
                found = _figures(ms[kind], ms["bf16"], work(abouts[kind]), abouts[kind], rates)
                study.put("found", part, point.at, kind, value=found)


def _figures(
    ms: list[float], plain: list[float], work: Cost, about: ModelFacts, rates: Rates
) -> dict[str, Any]:
    least = work.least(about.compute, rates).overlapped
    reads = work.nbytes / rates.read
    return {
        "ms": spread(ms),
        "times_bf16": spread([theirs / ours for theirs, ours in zip(plain, ms, strict=True)]),
        "limit_ms": round(1e3 * least, 4),
        "binds": "reading" if reads == least else "arithmetic",
        "of_limit": round(1e3 * least / statistics.median(ms), 3),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(model="qwen3-0.6b", rounds=7)
    parser.add_argument("--threads", type=int, default=2, help="the CPUs this process may use")
    given = parser.parse_args()
    study = Study(given.out)
    if not study.has("rates"):
        study.put("rates", value=asdict(measured(given.threads)))
    every = points(given.model, given.threads)
    told = described(every[0].loaded["int8"].facts) | {
        "step_context": SHORT,
        "prompt_tokens": PROMPT,
        "kv_bytes_per_token": {
            kind: loaded.facts.kv_bytes_per_token for kind, loaded in every[-1].loaded.items()
        },
        "weight_bytes": {
            kind: loaded.facts.weight_bytes for kind, loaded in every[0].loaded.items()
        },
    }
    study.under(told)
    measure(study, every, given.rounds)
    summarize(study, every, Rates(**study.result["rates"]))
    for part, at in study.result["found"].items():
        for where, kinds in at.items():
            print(part, where, {k: (f["ms"]["median"], f["of_limit"]) for k, f in kinds.items()})


if __name__ == "__main__":
    main()
