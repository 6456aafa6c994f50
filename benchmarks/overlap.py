"""What hiding the scheduler's work behind the model would gain, on one core and on two.

Every step of an engine is given the work of a second scheduler with as many
sequences: in line with its own, or in a thread while the model computes, as an
engine would do that plans the next step meanwhile. The same work is done either
way, so that the ratio of the two is what hiding just this much gains. It is done
as often a step as it takes to last as long as all that the engine itself does
outside the model and sampling.

    python -m benchmarks.overlap --model embedded --out benchmarks/results/overlap.json
    python -m benchmarks.overlap --model qwen3-0.6b --weights int8 --kv int8 --batch 8 \
        --out benchmarks/results/overlap.json

The two alternate from step to step, with a third that is given no such work. Each
number of cores runs in a process of its own. The same --out holds a result of each model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

from benchmarks.common import Study, arguments, conditions, requests, spread
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.schedule import Policy, Scheduler, Sequence

STEPS = 100  # of each kind in a round
CASES = ((1, 1), (2, 1), (2, 2))  # cores, threads of the model


class Shadow:
    """A scheduler with so many sequences that decode for ever."""

    def __init__(self, sequences: int) -> None:
        self._sequences = sequences
        self._times = 1  # a step of the engine
        self._begin()

    def _begin(self) -> None:
        self._left = 4000
        policy = Policy(max_running=self._sequences, max_step_tokens=8192)
        pages = self._sequences * (self._left // 16 + 8)
        self._scheduler = Scheduler(policy, pages=pages, page_size=16)
        for number in range(self._sequences):
            self._scheduler.add(
                Sequence(id=number, prompt=16, limit=16 + self._left + 8, keys=lambda page: None),
                now=0.0,
            )
        self._step()

    def last(self, ms: float) -> None:
        """Work so many milliseconds each time, as near as whole steps come."""
        started = time.perf_counter()
        for _ in range(200):
            self._step()
        self._times = max(1, round(ms / (1e3 * (time.perf_counter() - started) / 200)))

    def work(self) -> None:
        """Some steps."""
        for _ in range(self._times):
            self._step()

    def _step(self) -> None:
        """Plan a step, and take what came of it."""
        plan = self._scheduler.schedule(0.0)
        assert plan is not None
        self._scheduler.apply(plan)
        self._left -= 1
        if not self._left:
            self._begin()


@contextmanager
def beside(engine: Engine, thread: Executor, work: Callable[[], None]) -> Iterator[None]:
    """Have it done by a thread while the model computes."""
    decoder: Any = engine._runner.decoder
    forward = decoder.forward

    def both(*given: Any) -> Any:
        doing = thread.submit(work)
        logits = forward(*given)
        doing.result()
        return logits

    decoder.forward = both
    try:
        yield
    finally:
        decoder.forward = forward


def host_s(engine: Engine) -> float:
    """Seconds spent outside the model and sampling so far."""
    spent = engine.spent
    return spent.schedule + spent.prepare + spent.account


def case(given: argparse.Namespace, threads: int) -> dict[str, Any]:
    """One number of threads, on the cores this process may use."""
    options = EngineOptions(
        weights=given.weights,
        kv=given.kv,
        threads=threads,
        kv_tokens=given.batch * (64 + 3 * STEPS + 48),
    )
    engine = Engine.load(given.model, options)
    shadow, thread = Shadow(given.batch), ThreadPoolExecutor(1)
    ways = ("alone", "in line", "hidden")
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    host_ms, sample_ms = [], []
    for seed in range(given.rounds):
        said = engine.stats().output_tokens
        for request in requests(engine, [3 * STEPS + 16] * given.batch, prompt=64, seed=seed):
            engine.submit(request)
        while engine.stats().output_tokens < said + 8 * given.batch:
            engine.step()  # until all are prefilled, and warm
        spent = dict.fromkeys(ways, 0.0)
        spent_s = drawing_s = 0.0
        for _ in range(STEPS):
            for way in ways:  # in turn, since a step takes longer the more was said
                before, drawn = host_s(engine), engine.spent.sample
                hiding = beside(engine, thread, shadow.work)
                with hiding if way == "hidden" else nullcontext():
                    started = time.perf_counter()
                    if way == "in line":
                        shadow.work()
                    engine.step()
                    spent[way] += time.perf_counter() - started
                if way == "alone":
                    spent_s += host_s(engine) - before
                    drawing_s += engine.spent.sample - drawn
        host_ms.append(1e3 * spent_s / STEPS)
        sample_ms.append(1e3 * drawing_s / STEPS)
        if seed == 0:
            shadow.last(host_ms[0])  # the first round only tells how much there is to do
        else:
            for way in ways:
                rounds[way].append(1e3 * spent[way] / STEPS)
        while engine.has_work:
            engine.step()
    alone, inline, hidden = (rounds[way] for way in ways)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "host_ms": spread(host_ms),
        "sample_ms": spread(sample_ms),
        "alone_ms": spread(alone),
        "in_line_ms": spread(inline),
        "hidden_ms": spread(hidden),
        "gain": spread([line / hid for line, hid in zip(inline, hidden, strict=True)]),
        "conditions": conditions(engine)
        | {"weights": given.weights, "kv": given.kv, "batch": given.batch, "prompt": 64},
    }


def main() -> None:
    """Every number of cores that there is, and publish beside what other models gave."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--weights", default="plain")
    parser.add_argument("--kv", default="plain")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # "cores,threads", in a process of ours
    given = parser.parse_args()
    if given.case:
        cores, threads = map(int, given.case.split(","))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        print(json.dumps(case(given, threads)))
        return
    found = []
    for cores, threads in CASES:
        if cores > len(os.sched_getaffinity(0)):
            continue
        command = [sys.executable, "-m", "benchmarks.overlap", *sys.argv[1:]]
        command += ["--case", f"{cores},{threads}"]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        found.append(json.loads(said.splitlines()[-1]))
    print(json.dumps(found, indent=2))
    Study(given.out).put(given.model, value=found)


if __name__ == "__main__":
    main()
