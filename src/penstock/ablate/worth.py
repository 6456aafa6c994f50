"""What a setting is worth in quality, on a trained model: never on random weights."""

from __future__ import annotations

import msgspec

from penstock import models
from penstock.ablate.load import Scale
from penstock.ablate.parts import Parts
from penstock.ablate.result import Worth
from penstock.ablate.setting import Setting
from penstock.ablate.store import Store
from penstock.compress.corpus import held_out
from penstock.compress.quality import log_probabilities, quality
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.workload import doctests

LENGTH = 256  # tokens of a row
PLAIN = EngineOptions(dtype="fp32", kernels="torch", max_running=32)


class Judge:
    """Measures settings on `model`, or on the embedded one where that has random weights.

    Only what can change an answer is told apart: precision, formats, the checkpoint.
    """

    def __init__(self, model: str, scale: Scale, parts: Parts, store: Store) -> None:
        self.model = "embedded" if models.is_synthetic(models.path(model)) else model
        self._scale = scale
        self._parts = parts
        self._store = store
        self._plain: LLM | None = None

    def worth(self, setting: Setting) -> Worth:
        """Measure a setting, or read what was measured."""
        had = setting.options
        options = msgspec.structs.replace(
            PLAIN, dtype=had.dtype, weights=had.weights, kv=had.kv, kernels=had.kernels
        )
        name = msgspec.json.encode((options, setting.forms)).decode()
        return self._store.once(
            f"worth/{name}", Worth, lambda: self._measured(options, setting.forms)
        )

    def _measured(self, options: EngineOptions, forms: tuple[str, ...]) -> Worth:
        plain = self._plain = self._plain or LLM(self.model, PLAIN)
        rows = held_out(plain.tokenizer.encode, LENGTH, self._scale.rows)
        reference = quality(plain, rows, log_probabilities(plain, rows), 0)
        llm = LLM(self._parts.checkpoint(self.model, forms), options)
        found = quality(llm, rows, log_probabilities(plain, rows), self._scale.tasks)
        change, between = found.lost(reference)
        made = f", {self._scale.minutes:g} minutes of distillation" if forms else ""
        return Worth(
            model=self.model,
            loss=found.loss,
            change=change,
            change_ci95=between,
            kl=found.kl,
            doctests_right=found.doctests_right,
            doctests=self._scale.tasks * len(doctests.GRADES),
            how=f"{len(rows)} rows of {LENGTH} held-out tokens, {llm.engine.facts.precision}{made}",
        )
