"""What the running sequences need in every step, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.engine.generation import Generation
from penstock.engine.sampling import SamplingRows
from penstock.schedule import Sequence


@dataclass(slots=True)
class Tables:
    """One row for each running sequence, so that a step's arrays are one index away."""

    pages: NDArray[np.int64]  # [rows, longest table]
    dropped: NDArray[np.int64]  # tokens before `computed` whose pages were given up
    computed: NDArray[np.int64]
    last: NDArray[np.int64]  # newest token, the next to be computed
    temperature: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.int64]
    free: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, rows: int, longest: int) -> Tables:
        """Room for `rows` sequences of up to `longest` pages."""
        return cls(
            pages=np.zeros((rows, longest), np.int64),
            dropped=np.zeros(rows, np.int64),
            computed=np.zeros(rows, np.int64),
            last=np.zeros(rows, np.int64),
            temperature=np.zeros(rows, np.float32),
            top_k=np.zeros(rows, np.int64),
            top_p=np.ones(rows, np.float32),
            min_p=np.zeros(rows, np.float32),
            seed=np.zeros(rows, np.int64),
            free=list(range(rows))[::-1],
        )

    def seat(self, generation: Generation) -> None:
        """Give a row to a sequence that starts, or resumes, to run; it keeps one it has."""
        if generation.row >= 0:
            return
        params = generation.request.params
        row = generation.row = self.free.pop()
        self.temperature[row] = 0.0 if generation.search else params.temperature
        self.top_k[row] = params.top_k
        self.top_p[row] = params.top_p
        self.min_p[row] = params.min_p
        self.seed[row] = generation.seed

    def unseat(self, generation: Generation) -> None:
        """Take the row back from a sequence that ended or was preempted."""
        if generation.row >= 0:
            self.free.append(generation.row)
            generation.row = -1

    def list_pages(self, generation: Generation, sequence: Sequence) -> None:
        """Take over the pages that a sequence holds."""
        self.pages[generation.row, : len(sequence.pages)] = sequence.pages
        self.dropped[generation.row] = sequence.dropped

    def sampling(self, rows: NDArray[np.int64], ahead: NDArray[np.int64]) -> SamplingRows:
        """How to draw for each of `rows`, `ahead` tokens after the next."""
        return SamplingRows(
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            min_p=self.min_p[rows],
            seed=self.seed[rows],
            position=self.computed[rows] + 1 + ahead,
        )
