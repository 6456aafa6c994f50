"""The ground-truth server: compiled on first use, run for a while, its stamps read at the end.

C, because the truth must be better than what it judges: at a thousand streams
its events have to leave within a millisecond of their time.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.compiled import CannotCompile, compiled

_SOURCE = Path(__file__).with_name("truth.c")
MARK = "truth-"  # a number after it in a prompt names the request in `Truth.answers`


class TruthError(Exception):
    """There is no ground truth to be had; the message says why and what to do."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How the server answers, in seconds; `events` where a request sets no `max_tokens`."""

    ttft_s: float = 0.05
    itl_s: float = 0.05
    events: int = 40
    tokens_per_event: int = 1


class TrueAnswer(msgspec.Struct):
    """What really happened to one request, in `monotonic_ns`.

    `event_ns[i]` is when the i-th event was written, `due_ns[i]` when it should have been.
    """

    id: int
    arrival_ns: int
    due_ns: npt.NDArray[np.int64]
    event_ns: npt.NDArray[np.int64]

    @property
    def ttft_ns(self) -> int:
        """From the arrival of the request to the first event."""
        return int(self.event_ns[0]) - self.arrival_ns


class Truth(msgspec.Struct):
    """A running server; `answers` are there when it has ended."""

    url: str
    realtime: bool  # runs before everything else on its core, where the kernel permits
    answers: list[TrueAnswer] = []

    @property
    def late_ms_p99(self) -> float:
        """How late the server itself was with its events: 99th percentile, in ms."""
        late = [answer.event_ns - answer.due_ns for answer in self.answers]
        return float(np.quantile(np.concatenate(late), 0.99)) * 1e-6 if late else 0.0


class _Ready(msgspec.Struct):
    port: int
    realtime: bool


@contextlib.contextmanager
def true_server(timing: Timing) -> Iterator[Truth]:
    """Run the server; when the block is left, the truth is known.

    Raises `TruthError` if it cannot be compiled or started.
    """
    try:
        program = compiled([_SOURCE], ["-O2"])
    except CannotCompile as error:
        raise TruthError(f"no ground-truth server, which needs Linux: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        stamps = Path(folder) / "stamps"
        numbers = (round(timing.ttft_s * 1e6), round(timing.itl_s * 1e6), timing.events)
        with subprocess.Popen(
            [program, *map(str, numbers), str(timing.tokens_per_event), stamps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is not for it: it must still tell the truth
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                ready = msgspec.json.decode(process.stdout.readline(), type=_Ready)
            except msgspec.DecodeError as error:
                raise TruthError(f"the ground-truth server did not start: {error}") from error
            truth = Truth(f"http://127.0.0.1:{ready.port}", ready.realtime)
            try:
                yield truth
            finally:
                process.stdin.close()
                process.wait()
        truth.answers = _read(stamps, round(timing.itl_s * 1e9))


def _read(path: Path, itl_ns: int) -> list[TrueAnswer]:
    numbers = np.fromfile(path, dtype=np.int64)
    answers, at = [], 0
    while at < len(numbers):
        id_, arrival, due, count = map(int, numbers[at : at + 4])
        at += 4 + count
        dues = due + itl_ns * np.arange(count, dtype=np.int64)
        answers.append(TrueAnswer(id_, arrival, dues, numbers[at - count : at]))
    return answers
