"""The checkpoints that come with the package, and where a model's name leads."""

from __future__ import annotations

import json
import os
from pathlib import Path

SHIPPED = ("embedded", "embedded-draft")
SYNTHETIC_MARK = "penstock_synthetic"  # in config.json: the weights are random


def path(name: str) -> Path:
    """Return the directory of a model.

    By name one that comes with the package, or one that `penstock models make`
    made; else any existing directory. Raises `ValueError` naming what there is.
    """
    if name in SHIPPED:
        return Path(__file__).parent / name
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    from penstock.models.shapes import SHAPES

    if name in SHAPES:
        if (made := cache() / name).is_dir():
            return made
        raise ValueError(
            f"model {name!r} is a shape that was not made here yet; run `penstock models make "
            f"{name}`."
        )
    raise ValueError(
        f"model {name!r} is neither a directory nor one of {', '.join((*SHIPPED, *SHAPES))}; "
        "give the path of a checkpoint in Hugging Face layout."
    )


def cache() -> Path:
    """Where synthetic checkpoints are kept unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "penstock" / "models"


def is_synthetic(directory: Path) -> bool:
    """Whether a checkpoint's weights are random: its speed means something, its answers nothing.

    A directory without a readable `config.json` is no checkpoint of ours.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get(SYNTHETIC_MARK))
