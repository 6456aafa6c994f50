"""From a step's plan to sampled tokens: lays the batch out, runs the model, samples."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.generation import Generation
from penstock.engine.grammar import Grammars
from penstock.engine.guided import Guided
from penstock.engine.kv import KVStore
from penstock.engine.layout import Layout
from penstock.engine.model.batch import StepBatch
from penstock.engine.model.decoder import Decoder
from penstock.engine.pick import pick
from penstock.engine.scores import score
from penstock.engine.tables import Tables
from penstock.schedule import Chunk, Sequence, StepPlan


class Spent(msgspec.Struct):
    """Seconds spent in each part of a step, summed over all steps."""

    schedule: float = 0.0
    guess: float = 0.0  # choosing how many to guess, and guessing
    prepare: float = 0.0
    model: float = 0.0
    sample: float = 0.0
    account: float = 0.0


class Runner:
    """Runs plans on a decoder and its KV store.

    `kv` holds one scratch page more than the scheduler knows of, its last: the
    idle rows of a static batch write there.
    """

    def __init__(
        self, decoder: Decoder, kv: KVStore, grammars: Grammars, *, rows: int, longest: int
    ) -> None:
        self.decoder = decoder
        self.kv = kv
        self.grammars = grammars
        self.device = decoder.device
        self.spent = Spent()
        self.tables = Tables.empty(rows, longest)
        self.attended: dict[Sequence, list[float]] = {}  # of the last step, see `Scheduler.apply`

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Take one small step over the scratch page.

        The first call of each kernel sets it up, which takes many times as long as
        the call itself. Done here, no user waits for it.
        """
        size, page = self.kv.page_size, np.array([self.kv.pages - 1])
        none = np.zeros(1, np.int64)
        layout = self._layout(none, np.array([size - 1]), page[None], none)
        layout.want(layout.run(page, [0] * size, 0)[-1:])
        self.decoder.forward(layout.batch(), self.kv)

    def place(self, plan: StepPlan, generations: Mapping[Sequence, Generation]) -> None:
        """Let the tables follow a plan, which is run next."""
        started = time.perf_counter()
        tables = self.tables
        for sequence in plan.preempted:
            tables.unseat(generations[sequence])
        for sequence in plan.repaged:
            if sequence.budget is not None:
                tables.list_pages(generations[sequence], sequence)
                continue
            row, last = generations[sequence].row, len(sequence.pages) - 1
            tables.pages[row, last] = sequence.pages[last]
        for sequence in plan.guessed:
            tables.list_pages(generations[sequence], sequence)
        for chunk in plan.chunks:
            generation = generations[chunk.sequence]
            tables.seat(generation)
            tables.list_pages(generation, chunk.sequence)
            tables.computed[generation.row] = chunk.end - 1
        self.spent.prepare += time.perf_counter() - started

    @torch.inference_mode()
    def run(
        self, plan: StepPlan, generations: Mapping[Sequence, Generation]
    ) -> list[tuple[Sequence, Generation]]:
        """Compute a plan that was placed; return who sampled, new tokens at the end of `tokens`.

        That is one new token each, and more for those whose `guess` came true.
        """
        started = time.perf_counter()
        tables = self.tables
        decoding = [(s, generations[s]) for s in plan.decodes]
        guessing = [(s, g) for s, g in decoding if g.guess] if plan.guessed else []
        if guessing:
            decoding = [(s, g) for s, g in decoding if not g.guess]
        prefilled = [(c.sequence, generations[c.sequence]) for c in plan.chunks if c.samples]
        sampling = decoding + guessing + prefilled
        # The table row of each row of the logits: of each decode, of a static batch's
        # idle rows, then of each guess and the token before it, then of each prompt.
        lines = [g.row for _, g in decoding] + self._padding(plan.padding)
        batch, scored, watched = self._batch(plan, np.array(lines, np.int64), guessing, generations)
        owners = [(row, g) for row, (_, g) in enumerate(decoding)]
        ahead = [0] * len(lines)
        for _, generation in guessing + prefilled:
            owners.append((len(lines), generation))
            lines += [generation.row] * (1 + len(generation.guess))
            ahead += range(1 + len(generation.guess))
        parameters = tables.sampling(np.array(lines, np.int64), np.array(ahead, np.int64))
        guided = Guided(self.grammars, [(row, g) for row, g in owners if not g.plain])
        prepared = time.perf_counter()
        logits = self.decoder.forward(batch, self.kv)
        self.attended = {sequence: mass.tolist() for sequence, mass in watched.items()}
        computed = time.perf_counter()
        if scored:
            logits = self._score_prompts(logits, scored)
        taken = pick(logits, parameters, owners, guided, self.decoder.kernels)
        sampled = time.perf_counter()
        rows = np.array([g.row for _, g in sampling], np.int64)
        tables.computed[rows] += np.array(taken, np.int64)
        tables.last[rows] = [g.tokens[-1] for _, g in sampling]
        spent = self.spent
        spent.prepare += prepared - started
        spent.model += computed - prepared
        spent.sample += sampled - computed
        spent.account += time.perf_counter() - sampled
        return sampling

    def _score_prompts(self, logits: Tensor, scored: list[tuple[Generation, range]]) -> Tensor:
        """Note the log probabilities of prompt tokens; return the rows that are sampled.

        `scored` says which rows of `logits` are of whose prompt.
        """
        sampled = torch.ones(len(logits), dtype=torch.bool)
        for generation, rows in scored:
            known = generation.prompt_logprobs
            assert known is not None
            following = generation.request.prompt[len(known) : len(known) + len(rows)]
            top = generation.request.params.prompt_logprobs or 0
            some = slice(rows.start, rows.stop)
            tops, rate = [top] * len(following), self.decoder.kernels.rate
            known += score(logits[some], following, tops, rate)
            sampled[some] = False
        return logits[sampled.to(logits.device)]

    def branch(
        self, copies: list[tuple[int, int]], moved: list[tuple[Sequence, Generation]]
    ) -> None:
        """Copy pages, and take the tables of sequences whose pages were exchanged."""
        if copies:
            sources, targets = np.array(copies, np.int64).T
            self.kv.copy(self._tensor(sources.copy()), self._tensor(targets.copy()))
        for sequence, generation in moved:
            self.tables.list_pages(generation, sequence)

    def _padding(self, count: int) -> list[int]:
        """Rows for the idle part of a static batch: one token each, in the scratch page."""
        if not count:
            return []
        tables = self.tables
        rows = tables.free[len(tables.free) - count :]
        tables.pages[rows, 0] = self.kv.pages - 1
        tables.computed[rows] = tables.dropped[rows] = 0
        tables.last[rows] = 0
        tables.temperature[rows] = 0
        return rows

    def _batch(
        self,
        plan: StepPlan,
        rows: NDArray[np.int64],
        guessing: list[tuple[Sequence, Generation]],
        generations: Mapping[Sequence, Generation],
    ) -> tuple[StepBatch, list[tuple[Generation, range]], dict[Sequence, Tensor]]:
        """Lay out the decodes of table rows `rows`, then those that guess, then the chunks.

        Returns also which rows of the logits are of whose prompt, and where it is told
        what watched prompts attend to.
        """
        tables = self.tables
        layout = self._layout(
            tables.last[rows], tables.computed[rows], tables.pages, rows, tables.dropped[rows]
        )
        scored, watched = [], {}
        for sequence, generation in guessing:
            last = len(generation.tokens) - 1
            ids = [generation.tokens[last], *generation.guess]
            pages = tables.pages[generation.row]
            layout.want(layout.run(pages, ids, last, sequence.dropped))
        for chunk in plan.chunks:
            sequence, generation = chunk.sequence, generations[chunk.sequence]
            ids = generation.tokens[chunk.start : chunk.end]
            pages = tables.pages[generation.row]
            laid = layout.run(pages, ids, chunk.start, sequence.dropped)
            if sequence.watched and chunk.end == sequence.prompt:
                watched[sequence] = layout.watch(sequence.watched)
            if (asked := _unscored(generation, chunk)) is not None:
                which = layout.want(laid[position - chunk.start] for position in asked)
                scored.append((generation, which))
            if chunk.samples:
                layout.want(laid[-1:])
        return layout.batch(), scored, watched

    def _layout(
        self,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        tables: NDArray[np.int64],
        rows: NDArray[np.int64],
        dropped: NDArray[np.int64] | int = 0,
    ) -> Layout:
        size = self.kv.page_size
        return Layout(tokens, positions, tables, rows, dropped, page_size=size, device=self.device)

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _unscored(generation: Generation, chunk: Chunk) -> range | None:
    """Positions of a chunk whose logits rate a token of the prompt, each of them once."""
    known = generation.prompt_logprobs
    if known is None:
        return None
    first = max(chunk.start, len(known) - 1)
    end = min(chunk.end, len(generation.request.prompt) - 1)
    return range(first, end) if first < end else None
