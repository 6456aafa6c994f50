"""What every technique works with: text to calibrate on, what is done already, who watches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from penstock.compress.checkpoint import Checkpoint, Weights

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


def unwatched(title: str, done: int, total: int) -> None:
    """A `Progress` of nobody."""


class Work:
    """Finished parts of a long job, on disk: begun again, it goes on where it stopped.

    A part is some tensors under a name. `plan` says what the job is, and is written with
    the first of them: a job that was refused before leaves nothing. Raises `ValueError`
    where the directory holds parts of another.
    """

    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        self.directory = directory
        self._file = directory / "plan.json"
        self._plan = json.dumps(plan, indent=2, sort_keys=True)
        if self._file.exists() and self._file.read_text() != self._plan:
            raise ValueError(
                f"{directory} holds the finished parts of another compression; remove it, or "
                "choose another directory with --out."
            )

    def once(self, name: str, make: Callable[[], Weights]) -> Weights:
        """The part of this name: read if it is there, else made and kept."""
        if (found := self.find(name)) is not None:
            return found
        made = make()
        self.keep(name, made)
        return made

    def find(self, name: str) -> Weights | None:
        """The part of this name, if it is there."""
        file = self.directory / f"{name}.safetensors"
        return load_file(file) if file.exists() else None

    def keep(self, name: str, tensors: Weights) -> None:
        """Write a part, in place of one of its name; it is whole or not there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self._plan)
        unfinished = self.directory / f"{name}.tmp"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, unfinished)
        unfinished.rename(self.directory / f"{name}.safetensors")


@dataclass(frozen=True)
class Desk:
    """`rows` [n, length + 1] are token ids of the text that a model's values are learnt from."""

    rows: Tensor
    work: Work
    progress: Progress = unwatched


@dataclass(frozen=True)
class Made:
    """What a technique made of a checkpoint, and what it saw on the way.

    `details` are for the report: a list of rows under a title of what they tell.
    """

    checkpoint: Checkpoint
    details: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
