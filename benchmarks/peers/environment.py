"""An engine's own environment, and commands that must succeed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.base import NotMeasured, Room

TORCH = "torch==2.13.0"


def install(room: Room, packages: Sequence[str]) -> None:
    """Make the environment and install packages; nothing is done where they are known to be there.

    PyTorch goes in first and by pip, so that a CPU wheel lying on the machine
    is taken; the rest by uv where there is one, and pip else.
    """
    packages = [TORCH, "psutil", *packages]
    wanted = "\n".join(packages) + "\n"
    stamp = room.directory / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    room.directory.mkdir(parents=True, exist_ok=True)
    log = room.directory / "install.log"
    if not room.python.exists():
        command([sys.executable, "-m", "venv", str(room.directory / "venv")], log)
    pip = [str(room.python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command([*pip, TORCH], log)
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--quiet", "--python", str(room.python)] if uv else pip
    command([*tool, *packages], log)
    stamp.write_text(wanted)


def version(room: Room, package: str) -> str:
    """Of an installed package."""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return _said([str(room.python), "-c", program]).strip()


def command(words: Sequence[str], log: Path, *, limit_s: float = 3600.0, **variables: str) -> None:
    """Run something to its end; raises `NotMeasured` with its last words if it fails."""
    with log.open("ab") as out:
        out.write(f"$ {' '.join(words)}\n".encode())
        out.flush()
        start = out.tell()
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                timeout=limit_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotMeasured(f"{Path(words[0]).name}: {error}") from error
    if done.returncode:
        raise NotMeasured(f"{Path(words[0]).name} failed: {last_words(log, start)}")


@contextlib.contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """A place to write what will be `path` once it is whole."""
    unfinished = path.with_name(path.name + ".part")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.unlink(missing_ok=True)
    yield unfinished
    unfinished.rename(path)


def last_words(log: Path, start: int = 0) -> str:
    """The end of a log, on one line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    return " | ".join(line.strip() for line in lines if line.strip())[-500:]


def _said(words: Sequence[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotMeasured(f"{Path(words[0]).name}: {error}") from error
