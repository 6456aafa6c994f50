"""What steps a server must have taken, told from the outside: when each request's tokens came.

All sequences that decode together get a token in each step. So while one request gets n tokens,
n steps pass, and what was in them can be counted: the tokens that others got meanwhile, with the
contexts they had, and the prompts that were computed. Such a *span* is one observation: seconds,
and the sum of what its steps held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.predict.steptime import StepLoad, chunk_pairs
from penstock.record.record import Outcome, Record

Floats = npt.NDArray[np.float64]
SPAN_TOKENS = 32  # where every token's time is known, a request's life is cut into such spans
MOST_SPANS = 3000  # of a kind: more, evenly left out, would tell nothing new
TOGETHER = 0.2  # of a step: first tokens less apart come from the same one


class Seen(NamedTuple):
    """One request as it was seen, in seconds of any one clock.

    `tokens[i]` tokens had come at `when[i]`; the first entry is the first
    token. `started` is when its prompt was first worked on, where the server
    tells. `prompt` counts the tokens computed, `cached` those found in a cache.
    """

    sent: float
    started: float | None
    prompt: float
    cached: float
    when: Floats
    tokens: Floats

    @property
    def first(self) -> float:
        """When the first token came."""
        return float(self.when[0])

    @property
    def last(self) -> float:
        """When the last token came."""
        return float(self.when[-1])


class Spans(NamedTuple):
    """Observations, one a row, in the order in which they ended.

    Of `steps` steps, `mixed` had chunks. Sums over the steps of a span:
    `decodes`, `context`, `prefill`, `pairs` (see `StepLoad`) and `prompts` that
    ended. `requests` is 1 where the seconds also hold what a request spends
    outside of steps (`StepTime.request_s`).
    """

    ended: Floats
    seconds: Floats
    steps: Floats
    mixed: Floats
    requests: Floats
    decodes: Floats
    context: Floats
    prefill: Floats
    pairs: Floats
    prompts: Floats

    def loads(self, row: int) -> tuple[tuple[float, StepLoad], ...]:
        """The span's steps without and with chunks: how many, and what each held."""
        steps, mixed = self.steps[row], self.mixed[row]
        decodes, context = self.decodes[row] / steps, self.context[row] / steps
        plain = StepLoad(0, 0, decodes, context, decodes)
        if not mixed:
            return ((steps, plain),)
        prefill, pairs = self.prefill[row] / mixed, self.pairs[row] / mixed
        logits = decodes + self.prompts[row] / mixed
        chunked = StepLoad(prefill, pairs, decodes, context, logits)
        return ((steps - mixed, plain), (mixed, chunked))

    def joined(self, other: Spans) -> Spans:
        """Both, without what took no time, in order."""
        both = Spans(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))
        whole = (both.seconds > 0) & (both.steps > 0)
        return both.rows(np.flatnonzero(whole)[np.argsort(both.ended[whole], kind="stable")])

    def rows(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Spans:
        """Some of the rows."""
        return Spans(*(column[keep] for column in self))


def from_records(records: Iterable[Record]) -> list[Seen]:
    """Requests that finished with known token counts, as the meter wrote them down."""
    found = []
    for record in records:
        times, tokens = record.event_ns, record.event_tokens
        if record.outcome is not Outcome.FINISHED or not times or len(times) != len(tokens):
            continue
        if record.prompt_tokens is None or record.sent_ns is None:
            continue
        cached = record.cached_tokens or 0
        found.append(
            Seen(
                sent=record.sent_ns / 1e9,
                started=None,
                prompt=record.prompt_tokens - cached,
                cached=cached,
                when=np.asarray(times, dtype=float) / 1e9,
                tokens=np.cumsum(tokens).astype(float),
            )
        )
    return found


def spans(seen: Sequence[Seen], max_step_tokens: float = 2048.0) -> Spans:
    """What can be told from the requests: spans of their decoding, and of their prompts.

    `max_step_tokens` is the most that one step takes of prompts: longer ones
    need several. Raises `ValueError` where nothing can be told.
    """
    if not any(len(one.when) > 1 for one in seen):
        raise ValueError(
            f"no step can be told from {len(seen)} requests: none of them has two tokens with "
            "times. Calibrate from a run with streamed answers of more than one token."
        )
    starts, ends, steps = [], [], []
    for one in seen:
        last = len(one.when) - 1
        cuts = max(1, round(last / SPAN_TOKENS))
        at = np.unique(np.linspace(0, last, cuts + 1).astype(int))
        starts += one.when[at[:-1]].tolist()
        ends += one.when[at[1:]].tolist()
        steps += np.diff(one.tokens[at]).tolist()
    kept = _evenly(np.argsort(ends, kind="stable"))
    start, end, passed = (np.array(column)[kept] for column in (starts, ends, steps))
    found = windows(seen, start, end, passed, max_step_tokens)
    return found.joined(prompt_spans(seen, max_step_tokens))


def windows(
    seen: Sequence[Seen], start: Floats, end: Floats, steps: Floats, max_step_tokens: float
) -> Spans:
    """Spans between any two times, in which so many steps passed."""
    return _spans(_Prompts(seen, max_step_tokens), start, end, steps)


def prompt_spans(seen: Sequence[Seen], max_step_tokens: float) -> Spans:
    """Spans in which prompts were computed, of the first of those that came together."""
    prompts = _Prompts(seen, max_step_tokens)
    pick = _evenly(np.flatnonzero(np.diff(prompts.first, prepend=-np.inf) > 0))
    start, end = prompts.begun[pick], prompts.first[pick]
    found = _spans(prompts, start, end, prompts.chunks[pick] * prompts.together[pick])
    # Tokens between the first and the last may be known only in the mean, and chunks slow them:
    # count who decodes, each once a step. Whoever comes meanwhile waits for half a step, and
    # whom a server takes up at a step's end often finds the next one on its way.
    decoding, context = np.zeros(len(pick)), np.zeros(len(pick))
    for one in prompts.seen:
        here = ((one.first <= start) & (one.last >= end)).astype(float)
        decoding += here
        context += here * (one.prompt + one.cached + np.interp(start, one.when, one.tokens))
    wait = np.where(prompts.waited[pick], 1.0, 0.5)
    steps = found.steps + np.where(decoding > 0, wait, 0.0)
    return found._replace(
        steps=steps,
        decodes=decoding * steps,
        context=context * steps,
        requests=prompts.at_once[pick].astype(float),
    )


def _evenly(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """At most `MOST_SPANS` of the rows, over all of them."""
    if len(rows) <= MOST_SPANS:
        return rows
    kept: npt.NDArray[np.intp] = rows[np.linspace(0, len(rows) - 1, MOST_SPANS).astype(int)]
    return kept


class _Prompts:
    """When each prompt was computed, and in how many steps.

    Prompts are taken in the order in which their first tokens came: one begins
    once it was sent (or taken up, where the server tells of a longer wait) and
    the one before was done. First tokens that come together were computed
    together.
    """

    def __init__(self, seen: Sequence[Seen], max_step_tokens: float) -> None:
        self.seen = seen = sorted(seen, key=lambda one: one.first)
        first = np.array([one.first for one in seen])
        lives = [one for one in seen if len(one.when) > 1]
        pace = [(one.last - one.first) / max(one.tokens[-1] - one.tokens[0], 1) for one in lives]
        step = float(np.median(pace))
        apart = np.diff(first, prepend=-np.inf) > TOGETHER * step
        group = np.cumsum(apart) - 1
        size = np.bincount(group)
        total = np.bincount(group, weights=[one.prompt for one in seen])
        self.chunks = (np.maximum(1.0, total / max_step_tokens) / size)[group]
        began = first[apart]  # of each group, its first token; the next may begin then
        free = np.append(-np.inf, began[:-1])[group]
        sent = np.array([one.sent for one in seen])
        told = np.array([one.sent if one.started is None else one.started for one in seen])
        self.waited = told - sent > 2 * step  # for a seat or for pages, not for a step's end
        self.at_once = ~self.waited & (free <= sent)
        self.begun = np.minimum(np.maximum(np.where(self.waited, told, sent), free), first)
        self.first = first
        self.together = size[group]


def _spans(prompts: _Prompts, start: Floats, end: Floats, steps: Floats) -> Spans:
    """What the steps between two times held, summed."""
    names = ("decodes", "context", "prefill", "pairs", "prompts", "chunks")
    sums = {name: np.zeros(len(start)) for name in names}
    for one, began, chunks in zip(prompts.seen, prompts.begun, prompts.chunks, strict=True):
        before = np.interp(start, one.when, one.tokens)
        after = np.interp(end, one.when, one.tokens)
        # The step that gives token c + 1 reads the prompt and the c tokens before.
        tokens = after - before
        sums["decodes"] += tokens
        sums["context"] += tokens * (one.prompt + one.cached) + (after**2 - before**2) / 2
        if began < one.first:
            done = np.interp(np.stack([start, end]), [began, one.first], [0.0, 1.0])
            share = done[1] - done[0]
        else:
            share = ((start < one.first) & (one.first <= end)).astype(float)
        sums["prefill"] += share * one.prompt
        sums["pairs"] += share * chunk_pairs(int(one.cached), int(one.cached + one.prompt))
        sums["prompts"] += share
        sums["chunks"] += share * chunks
    return Spans(
        ended=end,
        seconds=end - start,
        steps=steps,
        mixed=np.minimum(sums.pop("chunks"), steps),
        requests=np.zeros(len(start)),
        **sums,
    )
