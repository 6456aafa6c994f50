"""Engines without a server: run in their own environment, told by JSON lines what to do.

`running` is this side. `answer` is the other: each engine's file calls it,
when it is run as a program, with a function that generates. The clock is read
there, around the engine alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.base import ROOT, Load, NotMeasured, Started
from benchmarks.peers.environment import last_words
from benchmarks.peers.process import START_S, child

Generate = Callable[[Load], Sequence[int]]  # what it returns: output tokens of each request


@dataclass(slots=True)
class Library:
    """An engine's library, loaded in a process of its own; `Running`."""

    process: subprocess.Popen[bytes]
    log: Path
    started: Started = field(default_factory=lambda: Started("unknown"))

    @property
    def pid(self) -> int:
        """Of that process."""
        return self.process.pid

    def run(self, load: Load, limit_s: float) -> float:
        """See `Running`."""
        answer = self.ask(asdict(load), limit_s)
        if answer["made"] != list(load.outputs):
            raise NotMeasured(f"answers have other lengths than asked: {answer['made'][:4]} ...")
        return float(answer["seconds"])

    def ask(self, question: Any, limit_s: float) -> Any:
        """Send a line and read one; beyond the limit the process is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        late = threading.Timer(limit_s, self.process.kill)
        late.start()
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = b""
        finally:
            in_time = not late.finished.is_set()
            late.cancel()
        if not line:
            raise NotMeasured(
                f"ended: {last_words(self.log)}" if in_time else f"not done after {limit_s:g} s"
            )
        return json.loads(line)


@contextlib.contextmanager
def running(
    python: Path,
    module: str,
    arguments: Mapping[str, Any],
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Library]:
    """Start `module` with that interpreter; `arguments` reach the function given to `answer`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    words = [str(python), "-m", module]
    with child(words, log, variables, cwd=ROOT, **pipes) as process:
        library = Library(process, log)
        hello = library.ask(arguments, START_S)
        library.started = Started(hello["version"], hello["flags"], hello.get("facts", {}))
        yield library


def answer(load_engine: Callable[[dict[str, Any]], tuple[dict[str, Any], Generate]]) -> None:
    """Read arguments, load, say what was loaded, then time one load after the other.

    Engines write where they like: what they print goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    hello, generate = load_engine(json.loads(sys.stdin.readline()))
    say(hello)
    for line in sys.stdin:
        load = Load(**json.loads(line))
        begin = time.perf_counter()
        made = generate(load)
        seconds = time.perf_counter() - begin
        say({"seconds": seconds, "made": list(made)})
    os._exit(0)  # an engine's own threads must not outlive whoever asks
