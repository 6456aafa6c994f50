"""A whole ablation, from what is asked to what is found."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import penstock
from penstock import models
from penstock.ablate.climb import Climb, Climbed
from penstock.ablate.crew import Crew
from penstock.ablate.load import Load, Scale
from penstock.ablate.parts import Parts
from penstock.ablate.progress import Progress, unwatched
from penstock.ablate.result import Ablation
from penstock.ablate.rungs import BASE, Rung, ladder
from penstock.ablate.store import Store
from penstock.ablate.worth import Judge
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.tokenizer import Tokenizer


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is ablated, `without` the rungs of these names."""

    model: str
    scale: Scale
    draft: str | None = None
    without: tuple[str, ...] = ()
    penstock: str = penstock.__version__


def ablate(plan: Plan, directory: Path, price: float, progress: Progress = unwatched) -> Ablation:
    """Measure the ladder; what is measured is kept in `directory`, and gone on from.

    `price` is of an hour of the machine. Raises `ValueError` or `OSError` saying what
    cannot be done.
    """
    parts = Parts(directory / "parts", plan.scale, progress, plan.draft)
    model = Path(parts.model(plan.model))
    _check_context(plan.scale, model)
    load = Load(plan.scale, Tokenizer.load(model).encode)
    store = Store(directory / "ablate.jsonl", plan)
    rungs = _chosen(ladder(plan.scale, parts.draft(plan.model)), plan.without)
    with Crew(plan.model, load, parts) as crew:
        climb = Climb(rungs, plan.scale, crew, store, progress)
        climbed = climb.up()
        top = climb.top(climbed)
    judge = Judge(plan.model, plan.scale, parts, store)
    results = []
    for index, one in enumerate(climbed):
        progress(f"quality: {one.rung.name}", index, len(climbed))
        results.append(climb.result(one, judge, price))
    return Ablation(
        model=plan.model,
        rungs=results,
        top=top,
        curves=[one.curve for one in climbed if one.curve is not None],
        conditions=_conditions(plan, price, judge.model, store),
        notes=[*store.told(), *_notes(plan, climbed)],
    )


def _check_context(scale: Scale, model: Path) -> None:
    """Raise `ValueError` for requests that the model has no positions for."""
    context = ModelConfig.load(model).max_positions
    if scale.longest > context:
        raise ValueError(
            f"--shared {scale.shared}, --own {scale.own} and --output {scale.output} make requests "
            f"of up to {scale.longest} tokens; {model} holds {context}. Lower them."
        )


def _chosen(rungs: Sequence[Rung], without: Sequence[str]) -> list[Rung]:
    """The rungs but some. Raises `ValueError` for one that is none, or that others stand on."""
    names = [rung.name for rung in rungs]
    if unknown := [name for name in without if name not in names]:
        raise ValueError(f"{', '.join(unknown)}: no such rung; there are {', '.join(names)}.")
    left = [rung for rung in rungs if rung.name not in without]
    for rung in left:
        if rung is not rungs[0] and rung.on in without:
            raise ValueError(f"{rung.name} is measured on {rung.on}: leave both out, or neither.")
    if not {rungs[0].name, BASE} <= {rung.name for rung in left}:
        raise ValueError(f"{rungs[0].name} and {BASE} cannot be left out: gains are over them.")
    return left


def _conditions(plan: Plan, price: float, judged: str, store: Store) -> dict[str, Any]:
    scale, synthetic = plan.scale, models.is_synthetic(models.path(plan.model))
    lengths = [scale.length(i) for i in range(scale.prompts)]
    return {
        "date": store.days,
        "penstock": penstock.__version__,
        "python": platform.python_version(),
        "machine": store.machine,
        "speed": "random weights at a real shape: the speed is real, the answers are noise"
        if synthetic
        else "trained weights at their own shape",
        "quality": f"on {judged}, beside its fp32; speed and quality are not to be multiplied",
        "requests": f"{scale.requests}: {scale.prompts} prompts of held-out library code, "
        f"{scale.samples} samples of each; {scale.shared} tokens that all share and {scale.own} "
        f"of their own; {min(lengths)} to {max(lengths)} output tokens, about {scale.output} on "
        f"average; temperature {scale.temperature:g}, seeded",
        "arrival": f"all queued at once, {scale.seats} served at a time; TTFT from the seat",
        "one_at_a_time": f"the first {scale.few} of them; without a cache the first",
        "rounds": f"{scale.rounds}, interleaved with the rung below, new text and an empty prefix "
        "cache in each",
        "acceptance": "recorded on the embedded model and replayed"
        if synthetic
        else "the model's own",
        "price": f"{price:g} per hour of the machine",
        "cost": "of a million output tokens",
    }


def _notes(plan: Plan, climbed: Sequence[Climbed]) -> Sequence[str]:
    notes = []
    for one in climbed:
        same = one.same
        if same is not None and not one.rung.rounds and same.same < same.requests:
            notes.append(
                f"{one.rung.name} is said to be exact, but {same.requests - same.same} of "
                f"{same.requests} texts differ from the rung before."
            )
        if one.cannot is not None:
            notes.append(f"{one.rung.name} was not measured: {one.cannot}")
    if plan.without:
        notes.append(f"left out on demand: {', '.join(plan.without)}")
    return notes
