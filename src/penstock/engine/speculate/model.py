"""Guesses drawn from a smaller model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.engine.generation import Generation
from penstock.engine.kv import KVStore
from penstock.engine.layout import Layout
from penstock.engine.model.decoder import Decoder
from penstock.engine.sampling import sample
from penstock.engine.speculate.drafter import Generations
from penstock.engine.speculate.lengths import Seconds
from penstock.engine.tables import Tables
from penstock.schedule import Sequence
from penstock.schedule.keys import PageKeys

MOST = 8  # guesses for one step


@dataclass(slots=True)
class _Draft:
    """How far the draft model has come with a sequence."""

    keys: PageKeys
    preemptions: int  # of the sequence when this began
    computed: int  # leading tokens whose K and V it has, all of them true ones


class DraftModel:
    """Runs a model of the same vocabulary ahead of the one that decides.

    Its K and V lie in a store of its own under the page ids that the scheduler
    gave the sequence, so shared prefixes are shared here too. It computes a token
    when it first needs it: what it has not seen, since others guessed or nobody
    did, it catches up with, at most `budget` tokens in a step. It draws with the
    noise of the position: where it thinks as the other does, it draws the same.
    """

    most = MOST

    def __init__(
        self, decoder: Decoder, kv: KVStore, tables: Tables, *, budget: int, seconds: Seconds
    ) -> None:
        self.decoder = decoder
        self._kv = kv
        self._tables = tables
        self._budget = budget
        self.seconds = seconds
        self._drafts: dict[Sequence, _Draft] = {}
        self._holds: dict[int, bytes] = {}  # pages it has filled, and with which content

    def offer(self, sequence: Sequence, generation: Generation) -> list[Hashable]:
        """As `Drafter.offer`: guesses are alike when as many were made before them."""
        return list(range(MOST))

    @torch.inference_mode()
    def guess(self, counts: Mapping[Sequence, int], generations: Generations) -> None:
        """As `Drafter.guess`. A sequence with too much to catch up with gets none."""
        some = [(s, generations[s], count) for s, count in counts.items()]
        rows = self._caught_up(some)
        ahead = 0
        while rows:
            ahead += 1
            rows = [(s, g, count) for s, g, count in rows if count > ahead]
            if rows:
                table = np.array([g.row for _, g, _ in rows])
                newest = np.array([g.guess[-1] for _, g, _ in rows])
                positions = self._tables.computed[table] + ahead
                self._draw(self._layout(newest, positions, table), [g for _, g, _ in rows], ahead)

    def learn(self, sequence: Sequence, generation: Generation, right: int) -> None:
        """As `Drafter.learn`: what it computed of right guesses need not be computed again."""
        draft = self._drafts[sequence]
        draft.computed += min(right, len(generation.guess) - 1)
        self._note(draft, sequence.pages)

    def ended(self, sequence: Sequence, generation: Generation) -> None:
        """As `Drafter.ended`."""
        self._drafts.pop(sequence, None)

    def _caught_up(
        self, some: list[tuple[Sequence, Generation, int]]
    ) -> list[tuple[Sequence, Generation, int]]:
        """Compute what it has not seen, and draw the first guesses of those it is up with."""
        none = np.zeros(0, np.int64)
        layout, budget = self._layout(none, none, none), self._budget
        rows = []
        for sequence, generation, count in some:
            draft = self._draft(sequence, generation)
            missing = generation.tokens[draft.computed :][:budget]
            if not missing:
                continue
            pages = self._tables.pages[generation.row]
            laid = layout.run(pages, missing, draft.computed)
            size, before = self._kv.page_size, draft.computed
            draft.computed += len(missing)
            for page in sequence.pages[before // size : -(-(draft.computed + count) // size)]:
                self._holds.pop(page, None)  # it is written to
            self._note(draft, sequence.pages)
            budget -= len(missing)
            if draft.computed == len(generation.tokens):
                layout.want(laid[-1:])
                rows.append((sequence, generation, count))
        if layout.wanted:
            self._draw(layout, [g for _, g, _ in rows], 0)
        elif budget < self._budget:
            self.decoder.forward(layout.batch(), self._kv)
        return rows

    def _draw(self, layout: Layout, drawing: list[Generation], ahead: int) -> None:
        """Take rows through the model, and a guess for each of `drawing` from their logits."""
        logits = self.decoder.forward(layout.batch(), self._kv)
        table = np.array([generation.row for generation in drawing])
        parameters = self._tables.sampling(table, np.full(len(table), ahead))
        drawn = sample(logits, parameters, self.decoder.kernels.draw)
        for generation, token in zip(drawing, drawn.tolist(), strict=True):
            generation.guess.append(token)

    def _draft(self, sequence: Sequence, generation: Generation) -> _Draft:
        draft = self._drafts.get(sequence)
        if draft is None or draft.preemptions != sequence.preemptions:
            keys = PageKeys(generation.tokens, self._kv.page_size)
            draft = self._drafts[sequence] = _Draft(keys, sequence.preemptions, 0)
            last = len(generation.tokens) - 1
            for index, page in enumerate(sequence.pages[: last // self._kv.page_size]):
                if self._holds.get(page) != keys(index):
                    break
                draft.computed += self._kv.page_size
        return draft

    def _note(self, draft: _Draft, pages: list[int]) -> None:
        """Remember what the pages hold that are full."""
        for index in range(draft.computed // self._kv.page_size)[::-1]:
            key = draft.keys(index)
            if key is None or self._holds.get(pages[index]) == key:
                return
            self._holds[pages[index]] = key

    def _layout(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Layout:
        tables, size, device = self._tables.pages, self._kv.page_size, self.decoder.device
        return Layout(tokens, positions, tables, rows, page_size=size, device=device)
