"""From a step's plan to sampled tokens: lays the batch out, runs the model, samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.engine.beam import BeamSearch
from penstock.engine.generation import Generation
from penstock.engine.grammar import Grammars
from penstock.engine.guided import Guided
from penstock.engine.kv import KVStore
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.decoder import Decoder
from penstock.engine.sampling import Draw, SamplingRows, sample
from penstock.engine.scores import score
from penstock.engine.shaping import shape
from penstock.schedule import Chunk, Sequence, StepPlan


class Spent(msgspec.Struct):
    """Seconds spent in each part of a step, summed over all steps."""

    schedule: float = 0.0
    prepare: float = 0.0
    model: float = 0.0
    sample: float = 0.0
    account: float = 0.0


@dataclass(slots=True)
class Tables:
    """One row for each running sequence, so that a step's arrays are one index away."""

    pages: NDArray[np.int64]  # [rows, longest table]
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
            computed=np.zeros(rows, np.int64),
            last=np.zeros(rows, np.int64),
            temperature=np.zeros(rows, np.float32),
            top_k=np.zeros(rows, np.int64),
            top_p=np.ones(rows, np.float32),
            min_p=np.zeros(rows, np.float32),
            seed=np.zeros(rows, np.int64),
            free=list(range(rows))[::-1],
        )


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
        self._tables = Tables.empty(rows, longest)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Take one small step over the scratch page.

        The first call of each kernel sets it up, which takes many times as long as
        the call itself. Done here, no user waits for it.
        """
        size, page = self.kv.page_size, self.kv.pages - 1
        slots = np.arange(size) + page * size
        table = self._tensor(np.array([page]))
        batch = StepBatch(
            tokens=self._tensor(np.zeros(1 + size, np.int64)),
            positions=self._tensor(np.append(size - 1, np.arange(size))),
            slots=self._tensor(np.append(slots[-1], slots)),
            decodes=1,
            decode_tables=table[None],
            decode_contexts=self._tensor(np.array([size])),
            max_decode_context=size,
            prefills=[PrefillSpan(1, 1 + size, table, size)],
            logit_rows=self._tensor(np.array([0, size])),
        )
        self.decoder.forward(batch, self.kv)

    def seat(self, generation: Generation) -> None:
        """Give a row to a sequence that starts, or resumes, to run; it keeps one it has."""
        if generation.row >= 0:
            return
        tables, params = self._tables, generation.request.params
        row = generation.row = tables.free.pop()
        tables.temperature[row] = 0.0 if generation.search else params.temperature
        tables.top_k[row] = params.top_k
        tables.top_p[row] = params.top_p
        tables.min_p[row] = params.min_p
        tables.seed[row] = generation.seed

    def unseat(self, generation: Generation) -> None:
        """Take the row back from a sequence that ended or was preempted."""
        if generation.row >= 0:
            self._tables.free.append(generation.row)
            generation.row = -1

    @torch.inference_mode()
    def run(
        self, plan: StepPlan, generations: Mapping[Sequence, Generation]
    ) -> list[tuple[Sequence, Generation]]:
        """Compute a plan; return who sampled, a new token at the end of each one's `tokens`."""
        started = time.perf_counter()
        tables = self._tables
        for sequence in plan.preempted:
            self.unseat(generations[sequence])
        for sequence in plan.grown:
            row, last = generations[sequence].row, len(sequence.pages) - 1
            tables.pages[row, last] = sequence.pages[last]
        for chunk in plan.chunks:
            self.seat(generations[chunk.sequence])
        decoding = [(s, generations[s]) for s in plan.decodes]
        prefilled = [(c.sequence, generations[c.sequence]) for c in plan.chunks if c.samples]
        decode_rows = [g.row for _, g in decoding] + self._padding(plan.padding)
        rows = np.array(decode_rows + [g.row for _, g in prefilled], np.int64)
        batch, scored = self._batch(plan, rows[: len(decode_rows)], generations)
        sampling = SamplingRows(
            temperature=tables.temperature[rows],
            top_k=tables.top_k[rows],
            top_p=tables.top_p[rows],
            min_p=tables.min_p[rows],
            seed=tables.seed[rows],
            position=tables.computed[rows] + 1,
        )
        at = [*range(len(decoding)), *range(len(decode_rows), len(rows))]
        asking = [
            (row, generation)
            for row, (_, generation) in zip(at, decoding + prefilled, strict=True)
            if not generation.plain
        ]
        guided = Guided(self.grammars, asking)
        prepared = time.perf_counter()
        logits = self.decoder.forward(batch, self.kv)
        computed = time.perf_counter()
        if scored:
            logits = self._score_prompts(logits, scored)
        chosen = _choose(logits, sampling, asking, guided, self.decoder.kernels.draw)
        sampled = time.perf_counter()
        tables.computed[rows] += 1
        tables.last[rows] = chosen
        new = chosen.tolist()
        del new[len(decoding) : len(decode_rows)]  # what idle rows drew
        for (_, generation), token in zip(decoding + prefilled, new, strict=True):
            generation.tokens.append(token)
        spent = self.spent
        spent.prepare += prepared - started
        spent.model += computed - prepared
        spent.sample += sampled - computed
        spent.account += time.perf_counter() - sampled
        return decoding + prefilled

    def _score_prompts(self, logits: Tensor, scored: list[tuple[Generation, int, int]]) -> Tensor:
        """Note the log probabilities of prompt tokens; return the rows that are sampled.

        `scored` says which rows of `logits` are of whose prompt: (whose, first, end).
        """
        sampled = torch.ones(len(logits), dtype=torch.bool)
        for generation, first, end in scored:
            known = generation.prompt_logprobs
            assert known is not None
            following = generation.request.prompt[len(known) : len(known) + end - first]
            top = generation.request.params.prompt_logprobs or 0
            known += score(logits[first:end], following, [top] * len(following))
            sampled[first:end] = False
        return logits[sampled.to(logits.device)]

    def branch(
        self, copies: list[tuple[int, int]], moved: list[tuple[Sequence, Generation]]
    ) -> None:
        """Copy pages, and take the tables of sequences whose pages were exchanged."""
        if copies:
            sources, targets = np.array(copies, np.int64).T
            self.kv.copy(self._tensor(sources.copy()), self._tensor(targets.copy()))
        for sequence, generation in moved:
            self._tables.pages[generation.row, : len(sequence.pages)] = sequence.pages

    def _padding(self, count: int) -> list[int]:
        """Rows for the idle part of a static batch: one token each, in the scratch page."""
        tables = self._tables
        rows = tables.free[len(tables.free) - count :]
        tables.pages[rows, 0] = self.kv.pages - 1
        tables.computed[rows] = 0
        tables.last[rows] = 0
        tables.temperature[rows] = 0
        return rows

    def _batch(
        self,
        plan: StepPlan,
        rows: NDArray[np.int64],
        generations: Mapping[Sequence, Generation],
    ) -> tuple[StepBatch, list[tuple[Generation, int, int]]]:
        """Lay out the decodes of table rows `rows`, then the chunks.

        Returns also which rows of the logits are of prompts: (whose, first, end).
        """
        tables, size = self._tables, self.kv.page_size
        positions = [tables.computed[rows]]
        tokens = [tables.last[rows]]
        slots = [tables.pages[rows, positions[0] // size] * size + positions[0] % size]
        longest = int(positions[0].max()) + 1 if len(rows) else 0
        decode_tables = tables.pages[rows, : -(-longest // size)]
        wanted = list(range(len(rows)))
        scored: list[tuple[Generation, int, int]] = []
        spans: list[PrefillSpan] = []
        start = len(rows)
        for chunk in plan.chunks:
            generation, count = generations[chunk.sequence], chunk.end - chunk.start
            table = np.array(chunk.sequence.pages, np.int64)
            span = np.arange(chunk.start, chunk.end)
            tables.pages[generation.row, : len(table)] = table
            tables.computed[generation.row] = chunk.end - 1
            positions.append(span)
            tokens.append(np.array(generation.tokens[chunk.start : chunk.end], np.int64))
            slots.append(table[span // size] * size + span % size)
            spans.append(PrefillSpan(start, start + count, self._tensor(table), chunk.end))
            if (asked := _unscored(generation, chunk)) is not None:
                scored.append((generation, len(wanted), len(wanted) + len(asked)))
                wanted += [start + position - chunk.start for position in asked]
            start += count
            if chunk.samples:
                wanted.append(start - 1)
        batch = StepBatch(
            tokens=self._tensor(np.concatenate(tokens)),
            positions=self._tensor(np.concatenate(positions)),
            slots=self._tensor(np.concatenate(slots)),
            decodes=len(rows),
            decode_tables=self._tensor(decode_tables),
            decode_contexts=self._tensor(positions[0] + 1),
            max_decode_context=longest,
            prefills=spans,
            logit_rows=self._tensor(np.array(wanted, np.int64)),
        )
        return batch, scored

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


def _choose(
    logits: Tensor,
    sampling: SamplingRows,
    asking: list[tuple[int, Generation]],
    guided: Guided,
    draw: Draw,
) -> NDArray[np.int64]:
    """Choose a token for each row of `logits`.

    On the way it does what the `asking` rows want: shapes and masks their
    logits, takes a step of their search, notes their log probabilities.
    """
    if not asking:
        return sample(logits, sampling, draw).numpy(force=True)
    noted = [(row, g) for row, g in asking if g.logprobs is not None]
    plainly = logits[[row for row, _ in noted]]  # a copy, before it is shaped
    shaped = [(row, g.shaping) for row, g in asking if g.shaping is not None]
    if shaped:
        shape(logits, shaped)
    guided.mask(logits)
    tokens = sample(logits, sampling, draw).numpy(force=True)
    guided.accept(tokens)
    searches: dict[BeamSearch, list[tuple[int, Generation]]] = {}
    for row, generation in asking:
        if generation.search is not None:
            searches.setdefault(generation.search, []).append((row, generation))
    for search, beams in searches.items():
        _search(search, sorted(beams, key=lambda beam: beam[1].index), logits, tokens)
    if noted:
        tops = [g.request.params.logprobs or 0 for _, g in noted]
        views = score(plainly, tokens[[row for row, _ in noted]].tolist(), tops)
        for (_, generation), view in zip(noted, views, strict=True):
            generation.logprobs = [view]
    for row, shaping in shaped:
        shaping.took(int(tokens[row]))
    return tokens


def _search(
    search: BeamSearch,
    beams: list[tuple[int, Generation]],
    logits: Tensor,
    tokens: NDArray[np.int64],
) -> None:
    """Take one step of a search; write what its beams take into `tokens` and their own lists."""
    rows = [row for row, _ in beams]
    search.step(logits[rows].log_softmax(-1))
    before = [generation.tokens for _, generation in beams]
    for (row, generation), (parent, token) in zip(beams, search.moves, strict=True):
        generation.tokens = list(before[parent])
        tokens[row] = token
