"""From a model's name to a compressed checkpoint on disk, with what it gained and lost."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import torch

import penstock
from penstock import models
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.depth import Depth, prune_depth
from penstock.compress.desk import Desk, Made, Progress, Work, unwatched
from penstock.compress.distill import Distill, distil
from penstock.compress.quality import Quality, log_probabilities, quality
from penstock.compress.quantize import Quantize, quantize
from penstock.compress.sparse import Sparsify, sparsify
from penstock.compress.speed import READING, WRITING, Speed, meaning, speeds
from penstock.compress.swiftkv import SwiftKV, swiftkv
from penstock.compress.width import Width, prune_width
from penstock.engine.llm import LLM

How = Depth | Width | Sparsify | SwiftKV | Distill | Quantize


class Measuring(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured: rows of held-out text and their tokens, doctests of each grade."""

    rows: int = 40
    tokens: int = 512
    tasks: int = 40
    speed: bool = True


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint, before or after."""

    parameters: int
    file_bytes: int  # of all weights on disk
    step_bytes: int  # of weights that one step reads, in the format the engine runs them in
    precision: str
    layers: int
    speed: list[Speed]
    reading: list[Speed]  # of a prompt
    quality: Quality | None  # None: random weights, or not measured


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One technique that was applied, and what it saw."""

    title: str
    how: How
    details: dict[str, list[dict[str, Any]]]


class Compressed(msgspec.Struct, frozen=True, kw_only=True):
    """What `penstock compress` reports."""

    model: str
    out: str
    steps: list[Step]
    before: Figures
    after: Figures
    conditions: dict[str, Any]
    notes: list[str]


def compress(
    model: str,
    out: Path,
    recipe: Sequence[How],
    *,
    rows: int = 64,
    length: int = 512,
    measuring: Measuring,
    progress: Progress = unwatched,
) -> Compressed:
    """Apply each technique of `recipe` in turn, write the checkpoint, measure it and its original.

    `rows` and `length` are of the calibration text. What is finished is kept beside
    `out`, in a directory of its name and `.partial`, until `out` is whole. Raises
    `ValueError` or `OSError` saying what cannot be done.
    """
    source = models.path(model)
    if out.exists():
        raise ValueError(f"{out} exists; remove it, or choose another directory with --out.")
    if not recipe:
        raise ValueError("nothing to do: ask for at least one technique.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    current = Checkpoint.read(source)
    # A training may be given more time, or be ended with what it has: time is not in the plan.
    plan = {"model": str(source.resolve()), "rows": rows, "length": length}
    plan["recipe"] = [msgspec.to_builtins(_timeless(how)) for how in recipe]
    work = Work(partial, plan)
    desk = Desk(corpus.calibration(current, rows, length), work, progress)
    steps = []
    for number, how in enumerate(recipe):
        made = _once(current, how, desk, f"step-{number}")
        current = made.checkpoint
        steps.append(Step(title=how.title, how=how, details=made.details))
    notes = list(_notes(current))
    story = {"model": model, "penstock": penstock.__version__, "steps": msgspec.to_builtins(steps)}
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        written = Path(folder) / out.name
        current.write(written, story)
        before, after, conditions = measure(source, written, measuring, progress)
        written.rename(out)
    shutil.rmtree(partial)
    conditions |= {"calibration": f"{rows} rows of {length} tokens, train split"}
    return Compressed(
        model=model,
        out=str(out),
        steps=steps,
        before=before,
        after=after,
        conditions=conditions,
        notes=notes,
    )


def measure(
    source: Path, made: Path, measuring: Measuring, progress: Progress = unwatched
) -> tuple[Figures, Figures, dict[str, Any]]:
    """Measure both checkpoints in one process, and say under which conditions."""
    llms = {"before": LLM(str(source)), "after": LLM(str(made))}
    facts = {name: llm.engine.facts for name, llm in llms.items()}
    found: dict[str, Quality | None] = dict.fromkeys(llms)
    text = "not measured"
    if models.is_synthetic(source):
        text = "none: the weights are random"
    elif measuring.rows:
        tokens = min(measuring.tokens, *(each.max_model_len for each in facts.values()))
        rows = corpus.held_out(llms["before"].tokenizer.encode, tokens, measuring.rows)
        for index, (name, llm) in enumerate(llms.items()):
            progress("quality", index, len(llms))
            against = log_probabilities(llms["before"], rows)
            found[name] = quality(llm, rows, against, measuring.tasks)
        progress("quality", len(llms), len(llms))
        text = (
            f"{len(rows)} rows of {tokens} tokens of the standard library, held out from the "
            "embedded models; what another was trained on is unknown"
        )
    none: dict[str, list[Speed]] = {name: [] for name in llms}
    timed = speeds(llms, progress, (*WRITING, *READING)) if measuring.speed else none
    before, after = (
        Figures(
            parameters=facts[name].parameters,
            file_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            step_bytes=facts[name].weight_bytes,
            precision=facts[name].precision,
            layers=len(llms[name].engine.decoder.config.layers),
            speed=timed[name][: len(WRITING)],
            reading=timed[name][len(WRITING) :],
            quality=found[name],
        )
        for name, folder in (("before", source), ("after", made))
    )
    conditions = {
        "date": date.today().isoformat(),
        "penstock": penstock.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": facts["after"].threads,
        "device": facts["after"].device,
        "speed": meaning(facts["before"]),
        "held_out": text,
        "doctests_each_grade": measuring.tasks,
    }
    return before, after, conditions


def _once(checkpoint: Checkpoint, how: How, desk: Desk, name: str) -> Made:
    """Apply a technique, or read what it made if it was applied before the job was interrupted.

    Raises `ValueError` if that was a training of other minutes: what follows builds on it.
    """
    story = desk.work.directory / f"{name}.json"
    if story.exists() and (tensors := desk.work.find(name)) is not None:
        title, config, details = json.loads(story.read_text())
        if title != how.title:
            raise ValueError(
                f"it is {title} already, not {how.title}; ask for the same again, or remove "
                f"{desk.work.directory}."
            )
        return Made(replace(checkpoint, config=config, tensors=tensors), details)
    made = _apply(checkpoint, how, desk)
    desk.work.keep(name, made.checkpoint.tensors)
    story.write_text(json.dumps([how.title, made.checkpoint.config, made.details]))
    return made


def _apply(checkpoint: Checkpoint, how: How, desk: Desk) -> Made:
    if isinstance(how, Distill):
        teacher = None if how.teacher is None else Checkpoint.read(models.path(how.teacher))
        return distil(checkpoint, teacher, how, desk)
    technique: Callable[..., Made] = _TECHNIQUES[type(how)]
    return technique(checkpoint, how, desk)


_TECHNIQUES: dict[type, Callable[..., Made]] = {
    Depth: prune_depth,
    Width: prune_width,
    Sparsify: sparsify,
    SwiftKV: swiftkv,
    Quantize: quantize,
}


def _timeless(how: How) -> How:
    return msgspec.structs.replace(how, minutes=0.0) if isinstance(how, Distill) else how


def _notes(made: Checkpoint) -> list[str]:
    """What the user of the checkpoint must know."""
    notes = []
    shape = made.shape
    if "penstock_layers" in made.config:
        notes.append(
            "Its layers differ in width, which no public format has a word for: this engine loads "
            "it, transformers refuses its shapes."
        )
    if shape.full_layers < len(shape.layers):
        notes.append(
            f"Prompts stop behind {shape.full_layers} of {len(shape.layers)} layers. It is laid "
            "out as Snowflake's SwiftKV checkpoints are: this engine loads it; transformers, which "
            f"does not know model_type={made.config['model_type']}, refuses it."
        )
    if shape.quantization is not None:
        notes.append(
            "transformers loads it with the compressed-tensors library, as vLLM does. Its scales "
            "may be negative, so that int4 has its whole range."
        )
    return notes
