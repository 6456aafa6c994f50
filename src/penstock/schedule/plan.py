"""What the scheduler decides: the work of a step, and the ends of sequences."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from penstock.schedule.sequence import Sequence

Reason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True, frozen=True)
class Chunk:
    """Tokens `start:end` of one sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether this chunk reaches the last known token, so that the next can be sampled."""
        return self.end == self.sequence.target


@dataclass(slots=True)
class StepPlan:
    """One step, or with `steps` > 1 that many equal decode steps.

    `decodes` is a live view, valid until `apply`; each of its sequences
    computes its newest token and samples the next. Those in `guessed` compute so
    many guesses of what follows beside it, and may sample as many tokens more.
    `repaged` are the decodes that got a new page or gave some up. `preempted` lost their pages to
    this plan (one of them may be back already, with a chunk). `padding` counts a
    static batch's idle rows.
    """

    decodes: Collection[Sequence]
    chunks: list[Chunk] = field(default_factory=list)
    guessed: dict[Sequence, int] = field(default_factory=dict)
    repaged: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    padding: int = 0
    steps: int = 1


@dataclass(slots=True, frozen=True)
class Ended:
    """The one end of a sequence."""

    sequence: Sequence
    reason: Reason
