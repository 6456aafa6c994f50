"""Speculative decoding in the mean: steps that yield more than a token, and cost more."""

from __future__ import annotations

from penstock.predict.steptime import StepLoad, StepTime
from penstock.simulate.fleet import Speculation


class Speculating:
    """A step time in which each decode's token costs its share of a verifying step.

    A verifying step takes `draft_tokens` + 1 tokens of each decode and yields
    `tokens_a_step` in expectation. The scheduler goes on by single tokens, each taking
    that part of its time; a chunk of prefill is paid in full by the step that has it.
    So tokens come evenly, all sequences are equally lucky, and the KV of
    rejected drafts takes no room: means are right, the spread among answers is not.
    """

    def __init__(self, step: StepTime, speculation: Speculation) -> None:
        self._step = step
        self._drafts = speculation.draft_tokens
        self._draft_s = speculation.draft_s
        self._tokens = speculation.tokens_a_step
        self.request_s = step.request_s

    def seconds(self, load: StepLoad) -> float:
        """See `StepTime`."""
        if not load.decodes:
            return self._step.seconds(load)
        drafts = self._drafts * load.decodes
        pairs = self._drafts * load.decode_context
        rows = load.decodes + drafts
        verifying = StepLoad(drafts, pairs, load.decodes, load.decode_context, rows)
        alone = self._step.seconds(verifying)
        shared = (alone + self._draft_s) / self._tokens
        if not load.prefill_tokens:
            return shared
        together = StepLoad(
            drafts + load.prefill_tokens,
            pairs + load.prefill_pairs,
            load.decodes,
            load.decode_context,
            load.logits + drafts,
        )
        return shared + self._step.seconds(together) - alone
