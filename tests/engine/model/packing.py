"""Packs sequences into a `StepBatch` by hand, with a page allocator that only counts up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from penstock.engine.kv import KVStore
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.decoder import Decoder

PAGE_SIZE = 16


@dataclass
class Sequence:
    """Tokens so far, how many are computed, and where their K and V lie."""

    tokens: list[int]
    computed: int = 0
    pages: list[int] = field(default_factory=list)


class Packer:
    """Takes sequences through a decoder step by step, in chunks of the caller's choosing."""

    def __init__(self, decoder: Decoder, pages: int = 128, dtype: torch.dtype | None = None):
        self.decoder = decoder
        dtype = dtype or decoder.dtype
        self.kv = KVStore(decoder.kv_layers(), pages, PAGE_SIZE, dtype, "cpu")
        # Scattered, not ascending, and page 0 in use: it is also the padding.
        self.free = [(i * 37) % pages for i in range(pages)][::-1]
        assert len(set(self.free)) == pages

    def step(
        self, decodes: list[Sequence], chunks: list[tuple[Sequence, int]] = (), *, last_only=False
    ) -> list[torch.Tensor]:
        """Logits of every row, by sequence: decodes first, then each chunk."""
        work = [(sequence, 1) for sequence in decodes] + list(chunks)
        batch = self.pack(decodes, list(chunks), last_only=last_only)
        with torch.inference_mode():
            logits = self.decoder.forward(batch, self.kv)
        for sequence, rows in work:
            sequence.computed += rows
        return list(logits.split([1 if last_only else rows for _, rows in work]))

    def pack(self, decodes, chunks, *, last_only=False) -> StepBatch:
        tokens, positions, slots, spans, logit_rows = [], [], [], [], []
        for sequence, rows in [(s, 1) for s in decodes] + chunks:
            context = sequence.computed + rows
            assert context <= len(sequence.tokens)
            while len(sequence.pages) * PAGE_SIZE < context:
                sequence.pages.append(self.free.pop())
            own = range(sequence.computed, context)
            start = len(tokens)
            tokens += [sequence.tokens[i] for i in own]
            positions += own
            slots += [sequence.pages[i // PAGE_SIZE] * PAGE_SIZE + i % PAGE_SIZE for i in own]
            logit_rows += [len(tokens) - 1] if last_only else range(start, len(tokens))
            if len(spans) or start >= len(decodes):
                table = sequence.pages[: -(-context // PAGE_SIZE)]
                spans.append(PrefillSpan(start, len(tokens), torch.tensor(table), context))
        contexts = [sequence.computed + 1 for sequence in decodes]
        width = max((len(sequence.pages) for sequence in decodes), default=0)
        tables = [sequence.pages + [0] * (width - len(sequence.pages)) for sequence in decodes]
        return StepBatch(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            decodes=len(decodes),
            decode_tables=torch.tensor(tables, dtype=torch.int64).view(len(decodes), width),
            decode_contexts=torch.tensor(contexts, dtype=torch.int64),
            max_decode_context=max(contexts, default=0),
            prefills=spans,
            logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        )
