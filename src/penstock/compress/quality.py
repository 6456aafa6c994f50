"""What a model is worth as the engine serves it: held-out loss, distance, right answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from statistics import fmean

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.engine.kv import KVStore
from penstock.engine.llm import LLM
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.request import SamplingParams
from penstock.record.stats import Interval, t_interval
from penstock.workload import doctests

ANSWER = SamplingParams(temperature=0.0, max_tokens=32)


class Quality(msgspec.Struct, frozen=True):
    """Means over rows of text, in nats a token. `doctests_right` is a share."""

    loss: float
    kl: float  # of the reference's distributions to these: E[KL(reference || this)]
    doctests_right: float | None  # None: not asked
    losses: list[float]  # of each row

    def lost(self, before: Quality) -> tuple[float, Interval | None]:
        """How much more this loses than `before`, as a share of that, with its 95 % interval.

        Both read the same rows, so the interval is that of their differences.
        """
        apart = [a - b for a, b in zip(self.losses, before.losses, strict=True)]
        ends = t_interval(apart)
        share = [end / before.loss for end in ends] if ends else None
        return self.loss / before.loss - 1, share


def quality(llm: LLM, rows: Tensor, reference: Iterable[Tensor], each: int) -> Quality:
    """Measure `llm` on `rows` [n, length + 1], and `each` doctests of every grade.

    `reference` gives, row by row, the log probabilities to hold it against.
    """
    losses, distances = [], []
    for row, ours, theirs in zip(rows, log_probabilities(llm, rows), reference, strict=True):
        losses.append(float(F.nll_loss(ours, row[1:])))
        distances.append(float(F.kl_div(ours, theirs, log_target=True, reduction="batchmean")))
    correct = right(llm, each) if each else None
    return Quality(fmean(losses), fmean(distances), correct, losses)


def log_probabilities(llm: LLM, rows: Tensor) -> Iterator[Tensor]:
    """Of every next token at every position of every row: fp32 [length, vocab] each."""
    decoder, page = llm.engine.decoder, llm.engine.facts.page_size
    length = rows.shape[1] - 1
    pages = -(-length // page)
    kv = KVStore(
        decoder.kv_layers(),
        pages,
        page,
        decoder.dtype,
        decoder.device,
        storage=decoder.kernels.pages,
    )
    none = torch.empty(0, dtype=torch.int64)
    for row in rows:
        batch = StepBatch(
            tokens=row[:-1].contiguous(),
            positions=torch.arange(length),
            slots=torch.arange(length),
            decodes=0,
            decode_tables=none.view(0, 0),
            decode_contexts=none,
            max_decode_context=0,
            prefills=[PrefillSpan(0, length, torch.arange(pages), length)],
            logit_rows=torch.arange(length),
        )
        with torch.inference_mode():  # left before others run: two of these may take turns
            found = decoder.forward(batch, kv).log_softmax(-1)
        yield found


def right(llm: LLM, each: int) -> float:
    """Share of held-out doctests answered right: `each` of every grade, four shots, greedy."""
    tasks = [
        task
        for grade in doctests.GRADES
        for task in islice(doctests.tasks(0, "held_out", [grade]), each)
    ]
    answers = llm.generate([doctests.few_shot(task) for task in tasks], ANSWER)
    good = sum(task.is_right(a.text) for task, a in zip(tasks, answers, strict=True))
    return good / len(tasks)
