"""C that comes with the package: compiled on first use, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class CannotCompile(Exception):
    """The message says why, and what to do."""


def compiled(
    sources: Sequence[Path], flags: Sequence[str], *, headers: Sequence[Path] = (), key: str = ""
) -> Path:
    """Compile `sources` into one program or library, if that was not done before.

    The result is kept by the content of all files, the flags, and `key`: what else
    it depends on. Raises `CannotCompile` without a compiler, or with what it said.
    """
    said = "\0".join([*flags, key]).encode()
    content = b"\0".join(file.read_bytes() for file in [*sources, *headers])
    name = hashlib.sha256(said + b"\0" + content).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock"
    made = cache / f"{sources[0].stem}-{name}"
    if made.exists():
        return made
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotCompile(
            "there is no C compiler: install one (apt-get install gcc, or the like), "
            "or name it in CC."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        new = Path(folder) / "new"
        command = [compiler, *flags, "-o", str(new), *map(str, sources), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            why = " | ".join(result.stderr.strip().splitlines()[:5])
            raise CannotCompile(f"{compiler} cannot compile {sources[0].name}: {why}")
        new.replace(made)
    return made
