"""Child processes that are measured: started, waited for, paused, weighed, stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.base import NotMeasured

START_S = 600.0


@contextlib.contextmanager
def child(
    words: Sequence[str], log: Path, variables: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log`; it and its children end with this."""
    with log.open("wb") as output:
        options = {"stdout": output, "stderr": output, **options}
        process = subprocess.Popen(
            words,
            env={**os.environ, **(variables or {})},
            start_new_session=True,  # Ctrl-C is for us, who stop it in order
            **options,
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it; with all that it started."""
    family = tree(process.pid)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.resume()
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=20)
    for member in left:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; empty if it is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def paused(pids: Sequence[int]) -> Iterator[None]:
    """Nothing of these processes runs meanwhile: threads that wait by spinning would be felt."""
    members = [member for pid in pids for member in tree(pid)]
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()
    for member in members:
        while _runs(member):  # a signal is heard when its process is scheduled
            time.sleep(0.001)
    try:
        yield
    finally:
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()


def _runs(member: psutil.Process) -> bool:
    try:
        status = member.status()
    except psutil.NoSuchProcess:
        return False
    return status not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], limit_s: float = START_S
) -> None:
    """Until it is ready; raises `NotMeasured` if it ends before, or takes too long."""
    stop = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None:
            raise NotMeasured(f"ended with status {process.returncode} while starting")
        if time.monotonic() > stop:
            raise NotMeasured(f"was not ready after {limit_s:.0f} s")
        time.sleep(0.05)


def forget_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew at what is resident now (Linux)."""
    for member in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            Path(f"/proc/{member.pid}/clear_refs").write_text("5")


def peak_rss(pid: int) -> int:
    """Bytes of resident memory at their peak, which the kernel keeps at no cost (Linux).

    Summed over a process and its children, each at its own peak; what they
    share counts for each.
    """
    return sum(_high_water(member.pid) for member in tree(pid))


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it has just ended
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
    return int(kib) * 1024
