"""What an engine is to the benchmark: settings, and how it is installed, started and asked.

Standard library only: the environments of the engines import this too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

ROOT = Path(__file__).parents[2]
Class = Literal["bf16", "int8", "int4"]  # of weights; only equals are compared


class NotMeasured(Exception):
    """The engine does not install, load or finish; the message says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run an engine, and in what precision it then computes.

    `weight_bits` counts scales in; `arithmetic` names the peak its products
    could reach. `workloads` are the letters of those it can do.
    """

    name: str
    kind: Class
    weights: str
    weight_bits: float
    activations: str
    kv: str
    kv_bits: float
    arithmetic: Literal["fp32", "bf16", "int8"]
    flags: tuple[str, ...] = ()
    workloads: str = "ABCDP"
    primed: bool = False  # a shared prefix is asked for first, alone; its time counts


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that arrive at once: prompts, the exact tokens wanted of each, what they share."""

    prompts: Sequence[Sequence[int]]
    outputs: Sequence[int]
    shared: int = 0  # tokens at the start of every prompt

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return max(len(p) + o for p, o in zip(self.prompts, self.outputs, strict=True))

    @property
    def tokens(self) -> int:
        """Tokens of all requests, prompt and output."""
        return sum(map(len, self.prompts)) + sum(self.outputs)

    def primer(self) -> Load:
        """The shared prefix alone."""
        return Load([self.prompts[0][: self.shared]], [1])


@dataclass(frozen=True, slots=True)
class Room:
    """Where one engine is kept: its environment and what was converted for it."""

    directory: Path
    threads: int

    @property
    def python(self) -> Path:
        """The interpreter of the engine's own environment."""
        return self.directory / "venv" / "bin" / "python"


@dataclass(slots=True)
class Started:
    """What a running engine said of itself."""

    version: str
    flags: list[str] = field(default_factory=list)  # as it was started
    facts: dict[str, Any] = field(default_factory=dict)


class Running(Protocol):
    """An engine that is up."""

    @property
    def pid(self) -> int:
        """The process whose memory, with its children's, is the engine's."""
        ...

    @property
    def started(self) -> Started:
        """What it said of itself."""
        ...

    def run(self, load: Load, limit_s: float) -> float:
        """Seconds until all is answered; raises `NotMeasured` for a failure or a wrong length."""
        ...


class Peer(Protocol):
    """An engine."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def served(self) -> bool:
        """Whether it is asked over HTTP; else as a library."""
        ...

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The ways to run it that are measured."""
        ...

    def install(self, room: Room) -> None:
        """Bring it into its room; quick if it is there. Raises `NotMeasured`."""
        ...

    def prepare(self, room: Room, checkpoint: Path, setting: Setting) -> Path:
        """Convert the checkpoint; quick if that was done. Raises `NotMeasured`."""
        ...

    def start(
        self, room: Room, model: Path, setting: Setting, load: Load
    ) -> AbstractContextManager[Running]:
        """Start it with room for such a load; stop it on leaving."""
        ...
