"""Takes sequences through a decoder by hand, with a page allocator that only counts up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from penstock.engine.kv import KVStore
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.decoder import Decoder

PAGE_SIZE = 16  # unless told


@dataclass
class Sequence:
    """Tokens so far, how many are computed, and where their K and V lie."""

    tokens: list[int]
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    dropped: int = 0  # slots of pages taken out of the middle


class Packer:
    """Packs sequences into steps in chunks of the caller's choosing."""

    def __init__(
        self,
        decoder: Decoder,
        page_size: int = PAGE_SIZE,
        pages: int = 256,
        device: str = "cpu",
    ):
        self.decoder = decoder
        self.device = device
        self.page_size = page_size
        self.kv = KVStore(decoder.kv_layers(), pages, page_size, decoder.dtype, device)
        # Scattered; page 0, which also pads decode tables, is handed out first.
        self.free = [i * 37 % pages for i in range(pages)][::-1]
        assert len(set(self.free)) == pages

    def step(self, decodes: list[Sequence], *chunks: tuple[Sequence, int]) -> list[torch.Tensor]:
        """Logits of every row, by sequence: decodes first, then each chunk."""
        work = [(sequence, 1) for sequence in decodes] + list(chunks)
        batch = self.pack(decodes, *chunks)
        with torch.inference_mode():
            logits = self.decoder.forward(batch, self.kv)
        for sequence, rows in work:
            sequence.computed += rows
        return list(logits.split([rows for _, rows in work]))

    def pack(self, decodes: list[Sequence], *chunks: tuple[Sequence, int]) -> StepBatch:
        tokens, positions, slots, spans = [], [], [], []
        size = self.page_size
        for sequence, rows in [(s, 1) for s in decodes] + list(chunks):
            end = sequence.computed + rows
            assert end <= len(sequence.tokens)
            context = end - sequence.dropped
            while len(sequence.pages) * size < context:
                sequence.pages.append(self.free.pop())
            start = len(tokens)
            tokens += sequence.tokens[sequence.computed : end]
            positions += range(sequence.computed, end)
            slots += [
                sequence.pages[slot // size] * size + slot % size
                for slot in range(context - rows, context)
            ]
            if start >= len(decodes):
                table = sequence.pages[: -(-context // size)]
                spans.append(PrefillSpan(start, len(tokens), self.tensor(table), context))
        contexts = [sequence.computed + 1 - sequence.dropped for sequence in decodes]
        width = max((len(sequence.pages) for sequence in decodes), default=0)
        tables = [sequence.pages + [0] * (width - len(sequence.pages)) for sequence in decodes]
        return StepBatch(
            tokens=self.tensor(tokens),
            positions=self.tensor(positions),
            slots=self.tensor(slots),
            decodes=len(decodes),
            decode_tables=self.tensor(tables).view(len(decodes), width),
            decode_contexts=self.tensor(contexts),
            max_decode_context=max(contexts, default=0),
            prefills=spans,
            logit_rows=self.tensor(range(len(tokens))),
        )

    def tensor(self, numbers) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def prefill(self, tokens: list[int], *chunks: int) -> torch.Tensor:
        """Logits of a new sequence taken in `chunks`, one step each."""
        sequence = Sequence(tokens)
        return torch.cat([self.step([], (sequence, rows))[0] for rows in chunks])

    def greedy(self, prompt: list[int], count: int, eos: tuple[int, ...] = ()) -> list[int]:
        """The most likely continuation, token by token, up to and with an end-of-sequence id."""
        sequence = Sequence(list(prompt))
        logits = self.step([], (sequence, len(prompt)))[0][-1]
        while True:
            sequence.tokens.append(int(logits.argmax()))
            if len(sequence.tokens) == len(prompt) + count or sequence.tokens[-1] in eos:
                return sequence.tokens[len(prompt) :]
            logits = self.step([sequence])[0][-1]
