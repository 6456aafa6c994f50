"""The ladder climbed: each rung beside its neighbour, alone and together, in interleaved rounds."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import penstock
from penstock import models
from penstock.ablate.crew import Cannot, Crew
from penstock.ablate.load import Load, Round, Scale
from penstock.ablate.parts import Parts
from penstock.ablate.progress import Progress, unwatched
from penstock.ablate.result import (
    Ablation,
    Curve,
    Figure,
    Latency,
    Memory,
    Pairs,
    Point,
    RungResult,
    Same,
    Step,
    Together,
    Top,
    pays,
    step,
)
from penstock.ablate.rungs import BASE, Rung, bottom, ladder
from penstock.ablate.setting import Ready, Setting, Shot
from penstock.ablate.store import Store
from penstock.ablate.worth import Judge
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.tokenizer import Tokenizer
from penstock.record.price import MILLION, SECONDS

CURVE_ROUNDS = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is ablated, `without` the rungs of these names."""

    model: str
    scale: Scale
    draft: str | None = None
    without: tuple[str, ...] = ()
    penstock: str = penstock.__version__


@dataclass
class Climbed:
    """A rung as far as it was measured."""

    rung: Rung
    setting: Setting
    together: Together | None = None
    alone: Step | None = None
    same: Same | None = None
    curve: Curve | None = None
    ready: Ready | None = None
    cannot: str | None = None

    @property
    def kept(self) -> bool:
        """Whether later rungs stand on it."""
        return self.together is not None and self.together.kept


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


class Climb:
    """Measures pairs of settings, each once, and remembers what it saw of each setting."""

    def __init__(
        self, rungs: Sequence[Rung], scale: Scale, crew: Crew, store: Store, progress: Progress
    ) -> None:
        self.rungs = {rung.name: rung for rung in rungs}
        self.scale = scale
        self._crew = crew
        self._store = store
        self._progress = progress
        self._pairs: dict[tuple[Setting, Setting, int, int], Pairs] = {}
        self._seen: dict[tuple[Setting, int], list[Shot]] = {}

    def up(self) -> list[Climbed]:
        """Every rung together with those kept below it, then alone, then over requests at once."""
        climbed = self._together()
        for index, one in enumerate(climbed[1:], 1):
            if one.cannot is None:
                self._progress(f"alone: {one.rung.name}", index, len(climbed))
                self._alone(one)
        return climbed

    def _together(self) -> list[Climbed]:
        first, *later = self.rungs.values()
        below = Climbed(first, first.over(bottom(self.scale)))
        climbed, gain = [below], 1.0
        for index, rung in enumerate(later, 1):
            self._progress(f"together: {rung.name}", index, len(self.rungs))
            one = Climbed(rung, rung.over(below.setting))
            climbed.append(one)
            try:
                pairs = self.pair(f"together/{rung.name}", below, one)
                below.ready, one.ready = self._ready(below), self._ready(one)
            except Cannot as error:
                if rung.name == BASE:
                    raise ValueError(f"{BASE}, to which all compare, cannot be: {error}") from error
                one.cannot = str(error)
                continue
            found = step(below.rung.name, pairs)
            replaces = rung.kind in {o.rung.kind for o in climbed if o.kept} - {None}
            kept = rung.stays or pays(found.ratio, free=rung.exact and not replaces)
            gained = 1.0 if rung.name == BASE else gain * found.ratio.median
            one.together = Together(**msgspec.structs.asdict(found), gain=gained, kept=kept)
            if rung.exact:
                one.same = Same.of([t for a, b in pairs for t in zip(a.said, b.said, strict=False)])
            if kept:
                below, gain = one, gained
        return climbed

    def _ready(self, one: Climbed) -> Ready:
        """What serves a rung: told while its worker is there."""
        return self._store.once(
            f"ready/{one.rung.name}", Ready, lambda: self._crew.ready(one.setting)
        )

    def _alone(self, one: Climbed) -> None:
        rung = one.rung
        base = Climbed(self.rungs[rung.on], self.alone(rung.on))
        alone = Climbed(rung, self.alone(rung.name))
        try:
            one.alone = step(rung.on, self.pair(f"alone/{rung.name}", base, alone))
            if rung.curve and self.scale.curve:
                one.curve = Curve(
                    name=rung.name,
                    title=rung.title,
                    over=rung.on,
                    points=[
                        *(self._point(base, alone, n) for n in self.scale.curve),
                        Point(requests=self.scale.seats, ratio=one.alone.ratio),
                    ],
                )
        except Cannot as error:
            one.cannot = str(error)

    def alone(self, name: str) -> Setting:
        """The rung's technique on the rung it is measured on, and so on down."""
        rung = self.rungs[name]
        first = next(iter(self.rungs))
        return rung.over(bottom(self.scale) if name == first else self.alone(rung.on))

    def _point(self, base: Climbed, alone: Climbed, requests: int) -> Point:
        first = CURVE_ROUNDS * self.scale.curve.index(requests)
        pairs = self._rounds(
            f"curve/{alone.rung.name}/{requests}",
            (base.setting, alone.setting),
            (requests, requests),
            [("curve", first + turn) for turn in range(CURVE_ROUNDS)],
        )
        return Point(requests=requests, ratio=step("", pairs).ratio)

    def top(self, climbed: Sequence[Climbed]) -> Top:
        """The highest rung that was kept, beside the base in the same rounds.

        Raises `ValueError` where that cannot be measured.
        """
        kept = [one for one in climbed[1:] if one.kept]
        base = exact = kept[0]
        for one in kept[1:]:
            if one.rung.exact or one.rung.stays:  # bf16 stays: our kernels need it
                exact = Climbed(one.rung, one.rung.over(exact.setting))
        try:
            self._progress("top", 0, 2)
            found = step(BASE, self.pair("top", base, kept[-1]))
            self._progress("top of what is exact", 1, 2)
            measured = step(BASE, self.pair("exact", base, exact))
        except Cannot as error:
            raise ValueError(f"the top beside {BASE} cannot be measured: {error}") from error
        steps = [
            (o.rung.exact, o.together.ratio.median) for o in kept if o.together and o is not base
        ]
        return Top(
            **msgspec.structs.asdict(found),
            steps=math.prod(ratio for _, ratio in steps),
            exact=math.prod(ratio for exact, ratio in steps if exact),
            lossy=math.prod(ratio for exact, ratio in steps if not exact),
            exact_measured=measured,
        )

    def pair(self, name: str, below: Climbed, above: Climbed) -> Pairs:
        """Both settings in interleaved rounds. Raises `Cannot`."""
        counts = [one.rung.count or self.scale.requests for one in (below, above)]
        a, b = (1, 1) if 1 in counts else counts
        key = below.setting, above.setting, a, b
        if key not in self._pairs:
            turns: list[Round] = [("rounds", turn) for turn in range(self.scale.rounds)]
            self._pairs[key] = self._rounds(name, key[:2], (a, b), turns)
        return self._pairs[key]

    def _rounds(
        self,
        name: str,
        settings: tuple[Setting, Setting],
        counts: tuple[int, int],
        turns: Sequence[Round],
    ) -> Pairs:
        """Every other round the other way about (ABBA): a drift of the machine favours nobody."""
        self._crew.forget()
        pairs = []
        for number, turn in enumerate(turns):
            shots: dict[int, Shot] = {}
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                setting, count = settings[side], counts[side]
                shots[side] = self._store.once(
                    f"{name}/{number}/{side}",
                    Shot,
                    lambda s=setting, t=turn, c=count: self._crew.serve(s, t, c),  # type: ignore[misc]
                )
                if turn[0] == "rounds":
                    self._seen.setdefault((setting, count), []).append(shots[side])
            pairs.append((shots[0], shots[1]))
        return pairs

    def result(self, one: Climbed, judge: Judge, price: float) -> RungResult:
        """All that is known of a rung."""
        count = one.rung.count or self.scale.requests
        shots = self._seen.get((one.setting, count), [])
        rate = Figure.of([shot.rate for shot in shots]) if shots else None
        ready = one.ready
        return RungResult(
            name=one.rung.name,
            title=one.rung.title,
            exact=one.rung.exact,
            alone=one.alone,
            together=one.together,
            tokens_per_s=rate,
            ttft=Latency.of([t for shot in shots for t in shot.ttft]),
            tpot=Latency.of([t for shot in shots for t in shot.tpot]),
            memory=_memory(shots, ready),
            cost=None if rate is None else price / SECONDS * MILLION / rate.median,
            quality=None if one.cannot else judge.worth(one.setting),
            quality_alone=None
            if one.cannot or one.rung.exact
            else judge.worth(self.alone(one.rung.name)),
            outputs=one.same,
            claimed=one.rung.claimed,
            conditions={} if ready is None else _served(one, ready, count),
            cannot=one.cannot,
        )


def _memory(shots: Sequence[Shot], ready: Ready | None) -> Memory | None:
    if not shots or ready is None:
        return None
    return Memory(
        peak_bytes=max(shot.peak_bytes for shot in shots), weight_bytes=ready.weight_bytes
    )


def _served(one: Climbed, ready: Ready, count: int) -> dict[str, Any]:
    """How a rung was served."""
    options = one.setting.options
    replayed = options.speculate != "off"
    return {
        "precision": ready.precision,
        "kv": ready.kv,
        "kernels": options.kernels,
        "threads": ready.threads,
        "parameters": ready.parameters,
        "requests": count,
        "seats": options.max_running,
        "step_tokens": options.max_step_tokens,
        "forms": list(one.setting.forms),
        "speculate": options.speculate,
        "draft_model": Path(options.draft_model).name if options.draft_model else None,
    } | ({"acceptance": "see the conditions of the whole"} if replayed else {})


def _conditions(plan: Plan, price: float, judged: str, store: Store) -> dict[str, Any]:
    scale, synthetic = plan.scale, models.is_synthetic(models.path(plan.model))
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
        f"of their own; {scale.output} output tokens on average, {scale.length(1)} to "
        f"{scale.longest - scale.prompt}; temperature {scale.temperature:g}, seeded",
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
