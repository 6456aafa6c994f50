"""How the studies of compression judge a model: beside its original, as the engine serves both."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import common
from penstock.compress import corpus
from penstock.compress.quality import Quality, log_probabilities, quality
from penstock.engine.llm import LLM
from penstock.workload import doctests


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Options of every study: those of every benchmark, and how much a model is asked."""
    parser = common.arguments(description)
    parser.add_argument("--tokens", type=int, default=512, help="of a row of text")
    parser.add_argument("--texts", type=int, default=40, help="rows of text")
    parser.add_argument("--tasks", type=int, default=40, help="doctests of each grade")
    return parser


class Judge:
    """Measures models on held-out text and doctests, each beside `original`.

    `given` says how much of both (see `arguments`), and under which name the
    original is published.
    """

    def __init__(self, original: LLM, given: Any) -> None:
        self._tasks: int = given.tasks
        self._rows = corpus.held_out(original.tokenizer.encode, given.tokens, given.texts)
        self._reference = list(log_probabilities(original, self._rows))
        self._before = self._quality(original)
        self.original = _figures(self._before, self._before)
        self.conditions = common.conditions(original.engine) | {
            "model": given.model,
            "held_out_tokens": self._rows[:, 1:].numel(),
            "doctests": given.tasks * len(doctests.GRADES),
        }

    def figures(self, llm: LLM) -> dict[str, Any]:
        """A model's figures as they are published."""
        return _figures(self._quality(llm), self._before)

    def _quality(self, llm: LLM) -> Quality:
        return quality(llm, self._rows, self._reference, self._tasks)


def _figures(found: Quality, before: Quality) -> dict[str, Any]:
    lost, ends = found.lost(before)
    return {
        "loss_nats": round(found.loss, 5),
        "loss_over_original": round(lost, 6),
        "loss_over_original_ci95": ends and [round(end, 6) for end in ends],
        "kl_to_original_nats": round(found.kl, 6),
        "doctests_right": found.doctests_right,
        "losses": [round(loss, 6) for loss in found.losses],
    }
