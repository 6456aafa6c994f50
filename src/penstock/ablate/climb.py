"""The ladder climbed: each rung beside its neighbour, alone and together, in interleaved rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from penstock.ablate.crew import Cannot, Crew
from penstock.ablate.load import Round, Scale
from penstock.ablate.progress import Progress
from penstock.ablate.result import (
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
from penstock.ablate.rungs import BASE, Rung, bottom
from penstock.ablate.setting import Ready, Setting, Shot
from penstock.ablate.store import Store
from penstock.ablate.worth import Judge
from penstock.record.price import MILLION, SECONDS

CURVE_ROUNDS = 2


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
