"""How much automatic guessing may lose: its speed beside none, step by step, with its interval.

    python -m benchmarks.speculation_bound --out benchmarks/results/speculation_bound.json

Two engines over the same weights say the same texts in turn: one guesses as many tokens
as it thinks pay, one never guesses and has nothing to guess with. They alternate after a
few decode steps, guessing, plain, plain, guessing, so that whatever slows the machine for
longer slows both. Each has K and V, requests and a memory of its own, as in a real run:
nothing that the plain steps said is unknown to a draft model, and rests, trials
and acceptance live through guessing steps alone. Prompts are read outside the clock.
Half way they exchange roles: where an engine's memory lies is worth up to two percent.

Acceptance is replayed as in benchmarks/speculation.py. "hostile" guesses never come true;
"turning" ones do as recorded for the first tokens of every text, outside the clock, then
never, and whoever guesses begins every text knowing nothing; the plain engine goes on from
where that left each text. "none" is as "turning", but after its first tokens nobody guesses
on either side: what the method itself is off by.

A ratio is of tokens per second, over all blocks of a cell; its 95 % interval is
bootstrapped over fours of blocks, each with one of the other half. With the same --out it
goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.common import Study, conditions, requests
from benchmarks.lanes import Lane, four, ratio
from benchmarks.speculation import SOURCES, Bench, acceptance, replayed
from penstock import models
from penstock.ablate.replay import Replay, Step
from penstock.engine.engine import Engine
from penstock.engine.generation import Generation
from penstock.engine.options import EngineOptions
from penstock.engine.speculate.copying import Lookup, Suffix
from penstock.engine.speculate.drafter import Drafter
from penstock.engine.speculate.model import DraftModel
from penstock.engine.speculate.speculator import Speculator
from penstock.schedule import Sequence as Running

PROMPT = 32
LEAST = 8  # fours of blocks for an interval


class Source(Replay):
    """A replay whose guesses never come true once it is told to be hostile."""

    hostile = False

    def offer(self, sequence: Running, generation: Generation) -> list[Any]:
        """The offer of some recorded step."""
        kinds = super().offer(sequence, generation)
        if self.hostile:
            self._now[sequence] = tuple(kinds), 0
        return kinds


class Twins(Bench):
    """Two engines over the same weights, each with a draft model's K and V of its own."""

    def __init__(self, model: str, draft: str, options: EngineOptions) -> None:
        super().__init__(model, draft, options)
        first, drafter = self.engine, self.draft_model
        assert isinstance(drafter, DraftModel)
        drafting = msgspec.structs.replace(options, speculate="draft", draft_model=draft)
        self.second = Engine(
            first.decoder, first.facts, drafting, models.path(model), drafter.decoder
        )
        assert self.second.speculator is not None
        self.drafts: dict[Engine, Drafter] = {
            first: drafter,
            self.second: self.second.speculator.drafter,
        }

    def lanes(self, batch: int, output: int) -> tuple[Lane, Lane]:
        """Both on the same texts, which are told first; this warms up too."""
        work = requests(self.engine, [output] * batch, prompt=PROMPT, seed=batch)
        lanes = Lane(self.engine, work), Lane(self.second, work)
        for lane in lanes:
            lane.engine.speculator = None
        lanes[0].begin(output)
        self.truths = {
            (tuple(request.prompt), request.params.seed or 0): lanes[0].texts[request.id]
            for request in work
        }
        return lanes


@dataclass(frozen=True)
class Case:
    """What guesses in a cell, and what becomes of it after `lead` tokens of a text."""

    steps: list[Step]  # acceptance
    search: Callable[[], Drafter] | None = None  # who looks for guesses, if not the draft model
    lead: int = 0
    after: Literal["hostile", "nobody"] = "hostile"


def cell(case: Case, bench: Twins, lanes: tuple[Lane, Lane], given: Any) -> dict[str, Any]:
    """What two lanes measure in so many seconds, each guessing in half of them."""
    one, other = lanes
    halves = [half(case, bench, pair, given) for pair in ((one, other), (other, one))]
    fours = np.array([a + b for a, b in zip(*(each.fours for each in halves), strict=False)])
    steps = sum(each.steps for each in halves)
    tokens, seconds, plain_tokens, plain_s = fours.sum(axis=0).tolist()
    return ratio(fours) | {
        "fours": len(fours),
        "steps": steps,
        "guesses_a_step": round(sum(each.guesses for each in halves) / steps, 3),
        # Choosing and drafting.
        "guessing_ms_a_step": round(1e3 * sum(each.guess_s for each in halves) / steps, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "plain_tokens_per_s": round(plain_tokens / plain_s, 1),
    }


@dataclass
class Half:
    """One lane guessing, the other plain."""

    fours: list[NDArray[np.float64]] = field(default_factory=list)
    steps: int = 0
    guesses: int = 0
    guess_s: float = 0.0


def half(case: Case, bench: Twins, lanes: tuple[Lane, Lane], given: Any) -> Half:
    """Fours of blocks for half the seconds; those of one that turns last whole texts."""
    guessing, plain = lanes
    plain.engine.speculator = None
    engine, found = guessing.engine, Half()
    source = Source(case.search() if case.search else bench.drafts[engine], case.steps)
    source.truths = bench.truths
    speculator = Speculator(source, bench.step, None)

    def enough() -> bool:
        seconds = np.sum(found.fours, axis=0)[[1, 3]].sum() if found.fours else 0.0
        return len(found.fours) >= LEAST and bool(2 * seconds >= given.seconds)

    while not enough():
        if case.lead:
            source.hostile = False
            speculator = Speculator(source, bench.step, None)
        engine.speculator = speculator
        guessing.begin(case.lead)
        plain.join(guessing)
        if case.lead:
            source.hostile = True
            if case.after == "nobody":
                engine.speculator = None
        made, before = sum(speculator.tally.made), engine.stats()
        while guessing.room and plain.room:
            found.fours.append(four(guessing, plain, given.steps))
            if not case.lead and enough():
                break
        found.steps += engine.stats().steps - before.steps
        found.guess_s += engine.stats().guess_s - before.guess_s
        found.guesses += sum(speculator.tally.made) - made
        for lane in lanes:
            lane.check(bench.truths)
            lane.end()
    return found


def cases(lead: int) -> dict[str, Case]:
    """Every source by its name; acceptance is measured here."""
    steps = {source: acceptance(source, 0.0)[1] for source in SOURCES}
    return {
        "none": Case(steps["suffix"], Suffix, lead, "nobody"),
        "lookup": Case(steps["lookup"], Lookup),
        "suffix": Case(steps["suffix"], Suffix),
        "draft model": Case(steps["draft"]),
        "hostile text": Case([((8,) * 16, 0)], Suffix),
        "hostile draft model": Case([(kinds, 0) for kinds, _ in steps["draft"]]),
        "turning text": Case(steps["suffix"], Suffix, lead),
        "turning draft model": Case(steps["draft"], None, lead),
    }


def main() -> None:
    """Every cell that is not known yet, and publish."""
    parser = replayed(__doc__)
    parser.add_argument("--only", help="sources, by commas; all if left out")
    parser.add_argument("--seconds", type=float, default=16, help="of decode steps in a cell")
    parser.add_argument("--steps", type=int, default=2, help="in a block")
    parser.add_argument("--output", type=int, default=384, help="tokens of a text")
    parser.add_argument("--lead", type=int, default=128, help="tokens before a source turns")
    given = parser.parse_args()
    batches = [int(count) for count in given.batches.split(",")]
    study = Study(given.out)
    most = max(batches)
    options = EngineOptions(
        weights=given.weights, kv="int8", max_running=most, kv_tokens=most * (given.output + 64)
    )
    bench = Twins(given.shape, given.draft_shape, options)
    every = cases(given.lead)
    names = given.only.split(",") if given.only else list(every)
    if unknown := set(names) - set(every):
        parser.error(f"--only {sorted(unknown)}: there are {', '.join(every)}.")
    study.under(
        conditions(bench.engine)
        | {"weights": given.weights, "kv": "int8", "prompt": PROMPT, "output": given.output}
        | {"draft": Path(given.draft_shape).name, "lead": given.lead, "steps": given.steps}
        | {"seconds": given.seconds}
    )
    # The engine goes by it; it was measured anew when this process began.
    study.put(
        "step_ms",
        value={str(rows): round(1e3 * bench.step(rows), 2) for rows in (1, 2, 4, 8, 16, 32, 64)},
    )
    for batch in batches:
        if not (left := [name for name in names if not study.has("cells", str(batch), name)]):
            continue
        lanes = bench.lanes(batch, given.output)
        for name in track(left, f"{batch} at once"):
            value = cell(every[name], bench, lanes, given)
            study.put("cells", str(batch), name, value=value)
            print(batch, name, value, flush=True)


if __name__ == "__main__":
    main()
