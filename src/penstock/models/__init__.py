"""The checkpoints that come with the package, and where a model's name leads."""

from __future__ import annotations

from pathlib import Path

SHIPPED = ("embedded", "embedded-draft")


def path(name: str) -> Path:
    """Return the directory of a model: a shipped one by name, or any existing directory.

    Raises `ValueError` naming what there is.
    """
    if name in SHIPPED:
        return Path(__file__).parent / name
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    raise ValueError(
        f"model {name!r} is neither a directory nor one of {', '.join(SHIPPED)}; "
        "give the path of a checkpoint in Hugging Face layout."
    )
