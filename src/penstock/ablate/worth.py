"""What a setting is worth in quality, on a trained model: never on random weights."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import msgspec
import torch
import torch.nn.functional as F

from penstock import models
from penstock.ablate.load import Scale
from penstock.ablate.parts import Parts
from penstock.ablate.result import Worth
from penstock.ablate.setting import Setting
from penstock.ablate.shorter import Shortener
from penstock.ablate.store import Store
from penstock.compress.corpus import held_out
from penstock.compress.quality import Quality, log_probabilities, quality
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.workload import doctests

LENGTH = 256  # tokens of a row
CONTINUED = 64  # of them, that follow a prompt
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
        name = msgspec.json.encode((options, setting.forms, setting.shortened)).decode()
        measure = self._continued if setting.shortened else self._whole
        return self._store.once(f"worth/{name}", Worth, lambda: measure(options, setting.forms))

    def _whole(self, options: EngineOptions, forms: tuple[str, ...]) -> Worth:
        """Of whole texts."""
        plain, llm, rows = self._opened(options, forms)
        reference = quality(plain, rows, log_probabilities(plain, rows), 0)
        found = quality(llm, rows, log_probabilities(plain, rows), self._scale.tasks)
        change, between = found.lost(reference)
        return Worth(
            model=self.model,
            loss=found.loss,
            change=change,
            change_ci95=between,
            kl=found.kl,
            doctests_right=found.doctests_right,
            doctests=self._scale.tasks * len(doctests.GRADES),
            how=f"{len(rows)} rows of {LENGTH} held-out tokens{self._made(forms)}",
        )

    def _continued(self, options: EngineOptions, forms: tuple[str, ...]) -> Worth:
        """Of what follows a prompt that was shortened, beside what follows it whole."""
        plain, llm, rows = self._opened(options, forms)
        shorten = Shortener(self._parts.shortener(self.model))
        cut = LENGTH - CONTINUED
        prompts = shorten([row[:cut].tolist() for row in rows])
        found: list[Quality] = []
        for row, prompt in zip(rows, prompts, strict=True):
            short = torch.cat((torch.tensor(prompt), row[cut:]))
            theirs, ours = (_last(who, text) for who, text in ((plain, row), (llm, short)))
            truth = row[-CONTINUED:]
            losses = [float(F.nll_loss(one, truth)) for one in (theirs, ours)]
            kl = float(F.kl_div(ours, theirs, log_target=True, reduction="batchmean"))
            found.append(Quality(losses[0], 0.0, None, losses[:1]))
            found.append(Quality(losses[1], kl, None, losses[1:]))
        before, after = (_joined(found[side::2]) for side in (0, 1))
        change, between = after.lost(before)
        kept = sum(map(len, prompts)) / (cut * len(prompts))
        return Worth(
            model=self.model,
            loss=after.loss,
            change=change,
            change_ci95=between,
            kl=after.kl,
            doctests_right=None,
            doctests=0,
            how=f"{CONTINUED} held-out tokens after each of {len(rows)} prompts of {cut}, of which "
            f"{kept:.0%} stayed{self._made(forms)}",
        )

    def _opened(
        self, options: EngineOptions, forms: tuple[str, ...]
    ) -> tuple[LLM, LLM, torch.Tensor]:
        """The plain model, the one to be judged, and held-out rows [n, LENGTH + 1]."""
        plain = self._plain = self._plain or LLM(self.model, PLAIN)
        rows = held_out(plain.tokenizer.encode, LENGTH, self._scale.rows)
        return plain, LLM(self._parts.checkpoint(self.model, forms), options), rows

    def _made(self, forms: tuple[str, ...]) -> str:
        return f"; {self._scale.minutes:g} minutes of distillation each" if forms else ""


def _last(llm: LLM, row: torch.Tensor) -> torch.Tensor:
    """Log probabilities [CONTINUED, vocab] of the last tokens of a row."""
    (found,) = log_probabilities(llm, row[None])
    return found[-CONTINUED:]


def _joined(parts: Sequence[Quality]) -> Quality:
    losses = [one.loss for one in parts]
    return Quality(fmean(losses), fmean(one.kl for one in parts), None, losses)
