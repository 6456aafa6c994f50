"""An engine of any tree of this project in a process of its own, which works when it is asked to.

`Server` runs there, with the tree's `penstock` and these benchmarks: it may use only what
both trees have.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.common import conditions, requests
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest

ROOT = Path(__file__).parent.parent
PROMPT = 32
OUTPUT = 16, 96  # tokens, the least and the most
PARTS = ("schedule", "prepare", "model", "sample", "account")  # of a step, as in `Spent`

Sums = dict[str, float]  # steps, tokens, seconds, and seconds of each of `PARTS`


class Server:
    """Serves always as many requests: whoever ends is followed by another."""

    def __init__(self, model: str, most: int) -> None:
        room = 2 * most * (PROMPT + OUTPUT[1])
        self.engine = Engine.load(model, EngineOptions(max_running=most, kv_tokens=room))
        if self.engine.facts.threads == 1:  # all trees on one core, since none is like another
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        self._alive: set[str] = set()
        self._ready: deque[GenerateRequest] = deque()

    def begin(self, at_once: int, seed: int) -> None:
        """Leave what is served, and serve so many at once; a seed always has the same requests."""
        for name in self._alive:
            self.engine.abort(name)
        while self.engine.has_work:
            self.engine.step()
        self._alive.clear()
        self._ready.clear()
        self._random = np.random.default_rng((seed, at_once))
        self._at_once = at_once
        self._make_ready(at_once)
        for _ in range(at_once):
            self._follow()
        self.block(OUTPUT[1])  # by then some have ended, at different times

    def block(self, steps: int) -> Sums:
        """What so many steps take, after one that is not counted: others had the caches."""
        self._make_ready(self._at_once * -(-(steps + 1) // OUTPUT[0]))
        self._step()
        before = msgspec.structs.asdict(self.engine.spent)
        started = time.perf_counter()
        tokens = sum(self._step() for _ in range(steps))
        seconds = time.perf_counter() - started
        after = msgspec.structs.asdict(self.engine.spent)
        sums = {"steps": steps, "tokens": tokens, "seconds": seconds}
        return sums | {part: after[part] - before[part] for part in PARTS}

    def _step(self) -> int:
        tokens = 0
        for delta in self.engine.step():
            if delta.error:
                raise RuntimeError(delta.error)
            tokens += len(delta.token_ids)
            if delta.finish_reason is not None:
                self._alive.remove(delta.request_id)
                self._follow()
        return tokens

    def _follow(self) -> None:
        request = self._ready.popleft()
        self._alive.add(request.id)
        self.engine.submit(request)

    def _make_ready(self, count: int) -> None:
        """Have so many requests at hand, so that none is made while the clock runs."""
        if (missing := count - len(self._ready)) > 0:
            lengths = self._random.integers(*OUTPUT, size=missing, endpoint=True).tolist()
            seed = int(self._random.integers(1 << 40))
            self._ready += requests(self.engine, lengths, PROMPT, seed)


class Tree:
    """The process of one tree. It starts at once; `told` waits until it can serve.

    Raises `FileNotFoundError` where there is no tree.
    """

    def __init__(self, tree: Path, model: Path, most: int) -> None:
        source = tree / "src"  # comes before what is installed
        if not (source / "penstock").is_dir():
            raise FileNotFoundError(
                f"{tree} is no checkout of this project: it has no src/penstock."
            )
        self.path = tree
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trees", str(model), str(most)],
            env=os.environ | {"PYTHONPATH": str(source)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever asks
        )

    def told(self) -> dict[str, Any]:
        """The conditions of its engine, once."""
        told: dict[str, Any] = self._answer()
        return told

    def begin(self, at_once: int, seed: int) -> None:
        """As `Server.begin`."""
        self._ask("begin", at_once, seed)

    def block(self, steps: int) -> Sums:
        """As `Server.block`."""
        sums: Sums = self._ask("block", steps)
        return sums

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _ask(self, *words: str | int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(
                f"{self.path}: its process ended, {self._process.wait()}; see above."
            )
        return json.loads(line)


def main() -> None:
    """Answer each line of stdin with a line, first with the conditions."""
    parser = argparse.ArgumentParser(description="Run by benchmarks.overhead_off.")
    parser.add_argument("model")
    parser.add_argument("most", type=int)
    given = parser.parse_args()
    server = Server(given.model, given.most)
    print(json.dumps(conditions(server.engine)), flush=True)
    for line in sys.stdin:
        method, *words = json.loads(line)
        print(json.dumps(getattr(server, method)(*words)), flush=True)


if __name__ == "__main__":
    main()
