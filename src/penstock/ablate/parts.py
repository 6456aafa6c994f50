"""What the ladder needs before it can be climbed: smaller checkpoints, a draft, recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from penstock import models
from penstock.ablate.load import Scale
from penstock.ablate.progress import Progress, unwatched
from penstock.ablate.replay import record
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.depth import Depth, prune_depth, without
from penstock.compress.desk import Desk, Work
from penstock.compress.distill import Distill, distil
from penstock.compress.swiftkv import SwiftKV, swiftkv
from penstock.engine.options import Speculate
from penstock.models import synthetic
from penstock.models.shapes import SHAPES

CALIBRATION_ROWS, CALIBRATION_LENGTH = 16, 256


class Parts:
    """Makes each part once, under `directory`.

    A model of random weights is shrunk by its shape alone; a trained one is
    distilled as well. `draft` is a draft model that the user gave. Methods raise
    `ValueError` or `OSError` saying what cannot be.
    """

    def __init__(
        self,
        directory: Path,
        scale: Scale,
        progress: Progress = unwatched,
        draft: str | None = None,
    ) -> None:
        self.directory = directory
        self._scale = scale
        self._progress = progress
        self._given = draft
        directory.mkdir(parents=True, exist_ok=True)

    def model(self, name: str) -> str:
        """A model that is there: a shape that was not made yet is made in the cache."""
        if name in SHAPES and not (models.cache() / name).is_dir():
            self._make(name, models.cache() / name)
        return str(models.path(name))

    def draft(self, model: str) -> str | None:
        """A draft model for a model: the one given, its own, or for random weights a random one."""
        if self._given is not None or model == "embedded":
            return self._given or "embedded-draft"
        path = models.path(model)
        if not models.is_synthetic(path):
            return None
        wide = Checkpoint.read(path).shape
        small = replace(
            SHAPES["qwen3-0.6b-draft"], vocab=wide.vocab_size, positions=wide.max_positions
        )
        made = self.directory / f"draft-{wide.vocab_size}-{wide.max_positions}"
        if not made.is_dir():
            synthetic.make(small, made)
        return str(made)

    def shortener(self, model: str) -> str:
        """A small model with the tokenizer of a model, to rate prompts with."""
        if model == "embedded" or models.is_synthetic(models.path(model)):
            return "embedded-draft"  # the tokenizer of random weights is the embedded model's
        if self._given is not None:
            return self._given
        raise ValueError(f"no small model has the tokenizer of {model}; name one with --draft")

    def replay(self, source: Speculate) -> Path:
        """A recording of how guesses of a source come true on the embedded model."""
        file = self.directory / f"replay-{source}.json"
        if not file.exists():
            self._progress(f"recording how guesses come true: {source}", 0, 1)
            record(source, self._scale.temperature, file)
            self._progress(f"recording how guesses come true: {source}", 1, 1)
        return file

    def checkpoint(self, model: str, forms: tuple[str, ...]) -> str:
        """The model in these forms, one applied after the other."""
        if not forms:
            return model
        source = Path(model) if Path(model).is_dir() else models.path(model)
        made = self.directory / "-".join((source.name, *forms))
        if not made.is_dir():
            before = Checkpoint.read(Path(self.checkpoint(str(source), forms[:-1])))
            shrink = _FORMS[forms[-1]]
            shrink(self, before, made, model)
        return str(made)

    def _pruned(self, whole: Checkpoint, out: Path, model: str) -> None:
        """A quarter of the layers out: evenly, or of a trained model those it misses least."""
        count = len(whole.shape.layers)
        if count < 2:
            raise ValueError(f"{model} has one layer: none can be taken out.")
        gone = max(1, count // 4)
        if models.is_synthetic(whole.source):
            evenly = {round((i + 0.5) * count / gone) for i in range(gone)}
            self._write(without(whole, evenly), out)
            return
        desk = self._desk(whole, out, CALIBRATION_ROWS, CALIBRATION_LENGTH)
        self._taught(prune_depth(whole, Depth(layers=gone), desk).checkpoint, model, desk, out)

    def _swiftkv(self, whole: Checkpoint, out: Path, model: str) -> None:
        """Prompts stop half way."""
        if models.is_synthetic(whole.source):
            desk = self._desk(whole, out, 1, 16)  # of what it would see there nothing is used
            self._write(swiftkv(whole, SwiftKV(full=0.5), desk).checkpoint, out)
            return
        desk = self._desk(whole, out, CALIBRATION_ROWS, CALIBRATION_LENGTH)
        self._taught(swiftkv(whole, SwiftKV(full=0.5), desk).checkpoint, model, desk, out)

    def _taught(self, student: Checkpoint, model: str, desk: Desk, out: Path) -> None:
        """Distilled from the whole model, as long as the scale says."""
        how = Distill(minutes=self._scale.minutes, teacher=model)
        teacher = Checkpoint.read(models.path(model))
        self._write(distil(student, teacher, how, desk).checkpoint, out)

    def _write(self, made: Checkpoint, out: Path) -> None:
        made.write(out, {"made": f"by penstock ablate, as {out.name}"})

    def _desk(self, whole: Checkpoint, out: Path, rows: int, length: int) -> Desk:
        work = Work(out.with_name(f"{out.name}.partial"), {"minutes": self._scale.minutes})
        return Desk(corpus.calibration(whole, rows, length), work, self._progress)

    def _make(self, name: str, directory: Path) -> None:
        synthetic.make(
            SHAPES[name],
            directory,
            progress=lambda done, total: self._progress(f"making {name}", done, total),
        )


_FORMS = {"pruned": Parts._pruned, "swiftkv": Parts._swiftkv}
