"""Processes that work for us: started, asked line by line, and surely ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.ablate.setting import Order, Ready, Shot, Start

T = TypeVar("T", bound=msgspec.Struct)

STOP_S = 10.0


class Broken(RuntimeError):
    """A worker ended before it answered; the message has its last words."""


class Hand:
    """A worker that has loaded its model. `ready` says what it serves, or why it cannot."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, start: Start) -> None:
        self._process = process
        self._log = log
        self.ready = self._ask(start, Ready)

    def serve(self, order: Order) -> Shot:
        """Serve an order. Raises `Broken`."""
        return self._ask(order, Shot)

    def _ask(self, message: msgspec.Struct, kind: type[T]) -> T:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = self._process.wait()
            raise Broken(f"a worker ended with status {code}: {last_words(self._log)}")
        return msgspec.json.decode(line, type=kind)


@contextlib.contextmanager
def hired(start: Start, log: Path) -> Iterator[Hand]:
    """A worker for the time of the block; what it says beside its answers goes to `log`."""
    words = (sys.executable, "-m", "penstock.ablate.worker")
    with running(words, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Hand(process, log, start)


@contextlib.contextmanager
def running(
    words: Sequence[str], log: Path, *, stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, whose whole group ends with the block.

    Ctrl-C so reaches us alone, who end it in order. Raises `OSError` if there is no such program.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdin=stdin, stdout=stdout or out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it and its group to end; after `STOP_S` kill what is left of all it has started."""
    members = family(process.pid)
    try:
        _signal(process.pid, signal.SIGTERM)
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for member in members & family(process.pid, members):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        _signal(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def family(first: int, known: Collection[int] = ()) -> set[int]:
    """A process, its group, all that descends from these or from `known`, while they live.

    Of `known` those that began a session of their own are found again too, though
    their parent has ended. Elsewhere than on Linux nothing is found.
    """
    parents: dict[int, tuple[int, int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, group (proc(5)).
            _, parent, group, *_ = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(parent), int(group)
    found = {pid for pid, (_, group) in parents.items() if first in (pid, group) or pid in known}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def last_words(log: Path, most: int = 400) -> str:
    """The end of a log on one line; it may hold anything a program says."""
    text = log.read_bytes()[-4 * most :].decode("utf-8", "replace")
    said = " | ".join(line.strip() for line in text.splitlines() if line.strip())
    return said[-most:] or "it said nothing"
