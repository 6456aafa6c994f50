"""A student taught by a teacher's whole distributions: to recover, or to become its draft."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor

from penstock.compress import corpus, forward, swiftkv
from penstock.compress.checkpoint import Checkpoint, Weights
from penstock.compress.desk import Desk, Made, Work
from penstock.compress.training import Optimizers, distillation
from penstock.engine.model.tokenizer import coder

WARM_UP = 0.05  # of the time
_SAVE_EVERY_S = 60.0
_PART = "distill"


class Distill(msgspec.Struct, frozen=True, kw_only=True, tag="distill"):
    """For how long and how; `truth` is the share of the loss that the text itself has.

    Without a `teacher` (a model's name or directory) it is plain fine-tuning. A `light`
    one trains of a SwiftKV model nothing but the matrices that its deep layers have anew.
    """

    minutes: float
    teacher: str | None
    temperature: float = 1.0
    truth: float = 0.1
    peak: float = 5e-4  # learning rate
    length: int = 256  # tokens of a row
    rows: int = 8  # of a step
    seed: int = 0
    light: bool = False

    @property
    def title(self) -> str:
        """In a few words."""
        if self.teacher is None:
            return f"fine-tuned for {self.minutes:g} minutes without a teacher"
        lightly = "lightly " if self.light else ""
        return f"{lightly}distilled from {self.teacher} for {self.minutes:g} minutes"

    def rate(self, share: float) -> float:
        """Learning rate as a share of its peak, after a share of the time: up, then down to 0."""
        return max(0.0, min(share / WARM_UP, (1 - share) / (1 - WARM_UP)))


def distil(
    student: Checkpoint,
    teacher: Checkpoint | None,
    how: Distill,
    desk: Desk,
    clock: Callable[[], float] = time.monotonic,
) -> Made:
    """Train for the minutes given, on the train split, from where `desk.work` left off.

    Ctrl-C keeps the state as it is and is raised again. The details have the loss of
    the training rows over time, and for how long it was trained. Raises `ValueError`
    for a teacher of another vocabulary.
    """
    if teacher is not None and teacher.shape.vocab_size != student.shape.vocab_size:
        raise ValueError(
            f"teacher={how.teacher} has {teacher.shape.vocab_size:,} tokens, the student "
            f"{student.shape.vocab_size:,}: both must have one vocabulary."
        )
    run = _Run(student, how, desk.work)
    if not run.trained:
        raise ValueError("light=true trains the deep layers of a SwiftKV model: this one has none.")
    above = None if teacher is None else teacher.floats()
    seconds = 60 * how.minutes
    saved = clock()
    try:
        while run.elapsed < seconds:
            began = clock()
            batch = run.corpus.batch(how.rows, how.length)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                said = forward.forward(student.shape, run.weights, batch[:, :-1])
                taught = None
                if teacher is not None and above is not None:
                    with torch.no_grad():
                        taught = forward.forward(teacher.shape, above, batch[:, :-1])
            loss = distillation(
                said.flatten(0, 1),
                None if taught is None else taught.flatten(0, 1),
                batch[:, 1:].flatten(),
                temperature=how.temperature,
                truth=how.truth,
            )
            torch.autograd.backward(loss)
            run.step(how.rate(run.elapsed / seconds), loss)
            run.elapsed += clock() - began
            desk.progress(how.title, min(round(run.elapsed), round(seconds)), round(seconds))
            if clock() - saved > _SAVE_EVERY_S:
                run.save()
                saved = clock()
    finally:
        run.save()
    return Made(
        student.having({name: tensor.detach() for name, tensor in run.weights.items()}),
        {"loss of training rows": run.course, "trained": [run.told]},
    )


class _Run:
    """The state of a training, which goes to disk and comes back."""

    def __init__(self, student: Checkpoint, how: Distill, work: Work) -> None:
        self._work = work
        self.weights: Weights = student.floats()
        self.elapsed = 0.0
        self.course: list[dict[str, Any]] = []
        found = work.find(_PART) or {}
        self.weights |= {name: found[name] for name in self.weights if name in found}
        self.trained = {
            name: tensor.requires_grad_()
            for name, tensor in self.weights.items()
            if not how.light or swiftkv.light(name)
        }
        self._optimizers = Optimizers(self.trained, how.peak)
        self._optimizers.restore(
            {name: tensor for name, tensor in found.items() if "/" in name and name[0] != "/"}
        )
        end = student.shape.eos_token_ids[:1]
        self.corpus = corpus.Corpus.build(coder(student.source), corpus.training_texts(), end)
        if found:
            self.elapsed = float(found["/elapsed"])
            taken = found["/taken"].tolist()
            self.corpus.taken = dict(zip(self.corpus.taken, taken, strict=True))
            self.course = [
                {"seconds": seconds, "loss": loss} for seconds, loss in found["/course"].tolist()
            ]
        self._recent: list[float] = []

    def step(self, rate: float, loss: Tensor) -> None:
        """One step of the optimizers; the loss goes into the course, ten steps at a time."""
        self._optimizers.step(rate)
        self._recent.append(float(loss.detach()))
        if len(self._recent) == 10:
            mean = sum(self._recent) / len(self._recent)
            self.course.append({"seconds": self.elapsed, "loss": mean})
            self._recent.clear()

    @property
    def told(self) -> dict[str, Any]:
        """How long it really was, and how many rows of each source were read."""
        return {"minutes": self.elapsed / 60, **self.corpus.taken}

    def save(self) -> None:
        """Keep everything that `__init__` reads."""
        course = [[point["seconds"], point["loss"]] for point in self.course]
        state = {
            "/elapsed": torch.tensor(self.elapsed, dtype=torch.float64),
            "/taken": torch.tensor(list(self.corpus.taken.values())),
            "/course": torch.tensor(course, dtype=torch.float64).view(-1, 2),
        }
        detached = {name: tensor.detach() for name, tensor in self.trained.items()}
        self._work.keep(_PART, {**detached, **self._optimizers.tensors(), **state})
