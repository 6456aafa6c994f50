"""The standard library's own source, as text to train on and to prompt with.

It lies on every machine that runs Python, so nothing has to be downloaded.
A module belongs to one split for ever: the split is a hash of its name, not of
its text or its place in a list, so it holds across Python versions.
"""

import sys
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 0.05

_TEST_PACKAGES = frozenset({"test", "tests", "idle_test"})
# Character tables and one huge dictionary of help pages: generated, not written.
_GENERATED = ("encodings.", "pydoc_data.")


def modules(*, tests: bool = False) -> list[tuple[str, Path]]:
    """Name and source file of the running interpreter's modules, sorted by name.

    Only what `import` would find: a folder without `__init__.py` is data, not a
    package. `tests` adds the standard library's own test suites, which some
    distributions do not install.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [(path.stem, path) for path in root.glob("*.py")]
    for folder in root.iterdir():
        # site-packages is no package; this also keeps out a stray vendored one.
        if folder.name in sys.stdlib_module_names or folder.name in _TEST_PACKAGES:
            found += _package(folder, folder.name)
    return sorted(
        (name, path)
        for name, path in found
        if not name.startswith(_GENERATED) and (tests or _TEST_PACKAGES.isdisjoint(name.split(".")))
    )


def is_held_out(name: str) -> bool:
    """Whether the module of this dotted name is kept from training."""
    digest = blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def texts(split: Split, *, tests: bool = False) -> Iterator[tuple[str, str]]:
    """Name and source text of the modules of one split, in the order of their names.

    Empty files and those that are deliberately not UTF-8 are left out.
    """
    for name, path in modules(tests=tests):
        if is_held_out(name) == (split == "held_out"):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield name, text


def _package(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    if not (folder / "__init__.py").is_file():
        return
    for path in folder.glob("*.py"):
        yield (name if path.stem == "__init__" else f"{name}.{path.stem}"), path
    for child in folder.iterdir():
        if child.is_dir() and child.name.isidentifier():
            yield from _package(child, f"{name}.{child.name}")
