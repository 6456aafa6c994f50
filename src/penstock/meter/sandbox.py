"""Runs programs that nobody has read: answers of a model, with their unit tests.

Each runs in a child process of its own, in a session of its own, with an empty
environment and `python -I -S`, which locks itself up before it starts
(`penstock.meter.jail` says how): no network, no process, no thread, no signal, no
file outside a scratch folder that is deleted afterwards, and limits on CPU
time, memory, files and output. When its time is over, the session is killed.

What protects is tried, not believed: `protections` sends a program in that
attempts everything and sees what it gets away with. Where network,
processes or files are open, `run` refuses unless told `unsafe`. Linux only.

One thing it does not do: hide the tests from the answer. A program
that looks for them in its own process can find them, and cheat.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from time import monotonic

import msgspec

_JAIL = Path(__file__).with_name("jail.py")
WALLS = ("namespaces", "landlock", "capabilities", "rlimits", "seccomp")
_OUTPUT_SHOWN = 4_000  # bytes


class SandboxRefused(ValueError):
    """Untrusted code cannot be run here without danger; the message says why."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one program may use."""

    cpu_s: int = 5
    wall_s: float = 15.0  # from the start of the interpreter
    memory_bytes: int = 1 << 29  # address space
    file_bytes: int = 1 << 20  # of each file, and of the output
    open_files: int = 32


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended: `error` is None if it ran to its end, else what stopped it."""

    error: str | None
    output: str  # the first of what it printed
    seconds: float
    walls: dict[str, str] = {}  # by name; empty if it stood, else why it did not


class Protections(msgspec.Struct, frozen=True, kw_only=True):
    """What a program that tried could not do; `walls` as in `Result`."""

    network: bool
    processes: bool
    files: bool
    walls: dict[str, str]

    @property
    def missing(self) -> list[str]:
        """What is open."""
        return [name for name in ("network", "processes", "files") if not getattr(self, name)]

    def __str__(self) -> str:
        held = [name for name, trouble in self.walls.items() if not trouble]
        stopped = [n for n in ("network", "processes", "files") if n not in self.missing]
        text = f"stops {', '.join(stopped) or 'nothing'} (by {', '.join(held) or 'nothing'})"
        return text + (f"; leaves open {', '.join(self.missing)}" if self.missing else "")


def run(
    program: str, limits: Limits | None = None, *, unsafe: bool = False, site: bool = False
) -> Result:
    """Run a program, to its end or to its limits; `site` lets it import installed packages.

    Raises `SandboxRefused` where it could do harm and `unsafe` is not set, and
    `RuntimeError` if the sandbox itself breaks.
    """
    required: Sequence[str] = ()
    if not unsafe:
        required = [wall for wall, trouble in require().walls.items() if not trouble]
    return _run(program, limits or Limits(), required=required, site=site)


def require() -> Protections:
    """What protects here; raises `SandboxRefused` unless network, processes and files are shut."""
    found = protections()
    if found.missing:
        why = "; ".join(f"{name}: {trouble}" for name, trouble in found.walls.items() if trouble)
        raise SandboxRefused(
            f"untrusted code cannot be run safely here: {', '.join(found.missing)} cannot be "
            f"shut ({why}). Run where the kernel allows it, or accept the danger with "
            "--unsafe-sandbox."
        )
    return found


@lru_cache(maxsize=1)
def protections() -> Protections:
    """What a program could do here, tried once in a process; raises `SandboxRefused` off Linux."""
    return try_out(WALLS)


def try_out(walls: Sequence[str]) -> Protections:
    """Send a program behind these walls that attempts everything.

    Raises `RuntimeError` if it cannot even be started.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as home:
        precious = Path(home) / "precious"
        precious.write_text("x")
        port = listener.getsockname()[1]
        result = _run(_PROBE.format(port=port, path=str(precious)), Limits(), walls=walls)
    if result.error is not None:
        raise RuntimeError(f"the sandbox cannot be tried out: {result.error} {result.output}")
    return Protections(walls=result.walls, **json.loads(result.output))


# Each attempt is worth "stopped": an OSError from the kernel and nothing else.
_PROBE = """
import json, os, socket

def stopped(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False

def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()

print(json.dumps({{
    "network": stopped(lambda: socket.create_connection(("127.0.0.1", {port}), 5).close()),
    "processes": stopped(fork) and stopped(lambda: os.kill(os.getppid(), 0)),
    "files": stopped(lambda: open({path!r}, "a").close()) and stopped(lambda: os.unlink({path!r})),
}}))
"""


def _run(
    program: str,
    limits: Limits,
    *,
    walls: Sequence[str] = WALLS,
    required: Sequence[str] = (),
    site: bool = False,
) -> Result:
    if sys.platform != "linux":
        raise SandboxRefused("the sandbox needs Linux; grade such answers there")
    nonce = secrets.token_hex(8)
    begun = monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-") as scratch,
        # Output goes to a file, which the kernel bounds: no flood can fill a pipe or memory.
        tempfile.TemporaryFile() as output,
    ):
        status_read, status_write = os.pipe()
        with os.fdopen(status_read, "rb") as status:
            try:
                child = subprocess.Popen(
                    [sys.executable, "-I", "-B", *(() if site else ("-S",)), str(_JAIL)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=scratch,
                    env={},
                    pass_fds=[status_write],
                    start_new_session=True,
                )
            finally:
                os.close(status_write)
            order = {
                "program": program,
                "nonce": nonce,
                "status_fd": status_write,
                "readable": _readable(),
                "walls": walls,
                "required": required,
                "limits": msgspec.to_builtins(limits),
            }
            in_time = _wait(child, json.dumps(order).encode(), begun + limits.wall_s)
            said = status.read()
        output.seek(0)
        shown = output.read(_OUTPUT_SHOWN).decode("utf-8", "replace")
    stood, told = _told(said)
    if (in_time and stood is None) or told.lost:
        why = f"{told.lost} could not be raised again" if told.lost else shown.strip()[-500:]
        raise RuntimeError(f"the sandbox did not start: {why}")
    error: str | None = told.error or "the program ended before its tests were over"
    if told.done == nonce:
        error = None
    elif not in_time:
        error = f"time: still running after {limits.wall_s:g} s"
    elif child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        error = f"time: more than {limits.cpu_s} s of CPU"
    elif child.returncode < 0:
        error = f"killed by {signal.Signals(-child.returncode).name}"
    return Result(error=error, output=shown, seconds=monotonic() - begun, walls=stood or {})


def _wait(child: subprocess.Popen[bytes], order: bytes, deadline: float) -> bool:
    """Hand over the order and wait; whether it ended in time. Nothing of its session survives."""
    pidfd = os.pidfd_open(child.pid)
    try:
        assert child.stdin is not None
        try:
            with child.stdin:
                child.stdin.write(order)
        except BrokenPipeError:
            pass  # it died; its output says of what
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - monotonic()) * 1000))
    finally:
        # The child is not reaped yet, so this number is still its session's and nobody else's.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(pidfd)


class _Status(msgspec.Struct):
    """A line of the child's status."""

    walls: dict[str, str] = {}
    error: str | None = None
    done: str | None = None
    lost: str | None = None


def _told(said: bytes) -> tuple[dict[str, str] | None, _Status]:
    """The walls, if it came to that, and what came next; the program may have scribbled there."""
    lines = []
    for line in said.splitlines()[:2]:
        try:
            lines.append(msgspec.json.decode(line, type=_Status))
        except msgspec.DecodeError:
            break
    return (lines[0].walls if lines else None), (lines[1] if len(lines) > 1 else _Status())


def _readable() -> list[str]:
    """Python and its libraries: all that a program may read outside its scratch folder."""
    return sorted({sys.base_prefix, sys.prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"})
