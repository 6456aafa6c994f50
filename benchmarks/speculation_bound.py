"""How much automatic guessing may lose: its speed beside none, step by step, with its interval.

    python -m benchmarks.speculation_bound --out benchmarks/results/speculation_bound.json

Two engines over the same weights say the same texts in turn: one guesses as many tokens
as it thinks pay, one never guesses and has nothing to guess with. They alternate after a
few decode steps, guessing, plain, plain, guessing, so that whatever slows the machine for
longer slows both. Each has K and V, requests and a memory of its own, as in a real run:
nothing that the plain steps said is unknown to a draft model, and rests, trials
and acceptance live through guessing steps alone. Prompts are read outside the clock.

Acceptance is replayed as in benchmarks/speculation.py. "hostile" guesses never come true;
"turning" ones do as recorded for the first tokens of every text, outside the clock, then
never, and whoever guesses begins every text knowing nothing. "none" guesses on neither
side: what the method itself is off by.

A ratio is of tokens per second, over all blocks of a cell; its 95 % interval is
bootstrapped over fours of blocks. With the same --out it goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from penstock.engine.speculate.speculator import Speculator
from penstock.schedule import Sequence as Running

PROMPT = 32
LEAST = 8  # fours of blocks for an interval


class Source(Replay):
    """A replay that has the real source do its search too; hostile from when it is told to be."""

    def __init__(self, inner: Drafter, steps: list[Step]) -> None:
        super().__init__(inner, steps)
        self._asked = inner
        self.hostile = False

    def offer(self, sequence: Running, generation: Generation) -> list[Any]:
        """The offer of some recorded step."""
        self._asked.offer(sequence, generation)
        kinds = super().offer(sequence, generation)
        if self.hostile:
            self._now[sequence] = tuple(kinds), 0
        return kinds


@dataclass
class Case:
    """What guesses in a cell: nobody, or a source; after `lead` tokens it turns hostile."""

    source: Source | None
    lead: int = 0


def cell(case: Case, bench: Bench, lanes: tuple[Lane, Lane], given: Any) -> dict[str, Any]:
    """Fours of blocks for so many seconds; those of one that turns last whole texts."""
    guessing, plain = lanes
    engine, source = guessing.engine, case.source
    speculator = None if source is None else Speculator(source, bench.step, None)
    fours: list[NDArray[np.float64]] = []
    steps, guesses, guess_s = 0, 0, 0.0

    def enough() -> bool:
        return len(fours) >= LEAST and np.sum(fours, axis=0)[[1, 3]].sum() >= given.seconds

    while not enough():
        if source is not None:
            source.truths, source.hostile = bench.truths, False
            if case.lead:
                speculator = Speculator(source, bench.step, None)
        engine.speculator = speculator
        for lane in lanes:
            lane.begin(case.lead)
        if source is not None:
            source.hostile = case.lead > 0
        tally = sum(speculator.tally.made) if speculator else 0
        before = engine.stats()
        while guessing.room and plain.room:
            fours.append(four(guessing, plain, given.steps))
            if not case.lead and enough():
                break
        steps += engine.stats().steps - before.steps
        guess_s += engine.stats().guess_s - before.guess_s
        guesses += sum(speculator.tally.made) - tally if speculator else 0
        for lane in lanes:
            lane.check(bench.truths)
            lane.end()
    tokens, seconds, plain_tokens, plain_s = np.sum(fours, axis=0).tolist()
    return ratio(np.array(fours)) | {
        "fours": len(fours),
        "steps": steps,
        "guesses_a_step": round(guesses / steps, 3),
        "guessing_ms_a_step": round(1e3 * guess_s / steps, 3),  # choosing and drafting
        "tokens_per_s": round(tokens / seconds, 1),
        "plain_tokens_per_s": round(plain_tokens / plain_s, 1),
    }


def cases(bench: Bench, lead: int) -> dict[str, Case]:
    """Every source by its name; acceptance is measured here."""
    steps = {source: acceptance(source, 0.0)[1] for source in SOURCES}
    never = [(kinds, 0) for kinds, _ in steps["draft"]]
    draft = bench.draft_model
    return {
        "none": Case(None),
        "lookup": Case(Source(Lookup(), steps["lookup"])),
        "suffix": Case(Source(Suffix(), steps["suffix"])),
        "draft model": Case(Source(draft, steps["draft"])),
        "hostile text": Case(Source(Suffix(), [((8,) * 16, 0)])),
        "hostile draft model": Case(Source(draft, never)),
        "turning text": Case(Source(Suffix(), steps["suffix"]), lead),
        "turning draft model": Case(Source(draft, steps["draft"]), lead),
    }


def main() -> None:
    """Every cell that is not known yet, and publish."""
    parser = replayed(__doc__)
    parser.add_argument("--only", help="sources, by commas; all if left out")
    parser.add_argument("--seconds", type=float, default=16, help="of decode steps in a cell")
    parser.add_argument("--steps", type=int, default=2, help="in a block")
    parser.add_argument("--output", type=int, default=512, help="tokens of a text")
    parser.add_argument("--lead", type=int, default=160, help="tokens before a source turns")
    given = parser.parse_args()
    batches = [int(count) for count in given.batches.split(",")]
    study = Study(given.out)
    most = max(batches)
    options = EngineOptions(
        weights=given.weights, kv="int8", max_running=most, kv_tokens=most * (given.output + 64)
    )
    bench = Bench(given.shape, given.draft_shape, options)
    engine = bench.engine
    every = cases(bench, given.lead)
    names = given.only.split(",") if given.only else list(every)
    if unknown := set(names) - set(every):
        parser.error(f"--only {sorted(unknown)}: there are {', '.join(every)}.")
    plain_engine = Engine(engine.decoder, engine.facts, options, models.path(given.shape))
    study.put(
        "conditions",
        value=conditions(engine)
        | {"weights": given.weights, "kv": "int8", "prompt": PROMPT, "output": given.output}
        | {"draft": Path(given.draft_shape).name, "lead": given.lead, "steps": given.steps}
        | {"seconds": given.seconds},
    )
    for batch in batches:
        if not (left := [name for name in names if not study.has("cells", str(batch), name)]):
            continue
        work = requests(engine, [given.output] * batch, prompt=PROMPT, seed=batch)
        plain = Lane(plain_engine, work)
        plain.begin(given.output)  # warms up, and tells the texts
        bench.truths = {
            (tuple(request.prompt), request.params.seed or 0): plain.texts[request.id]
            for request in work
        }
        for name in track(left, f"{batch} at once"):
            value = cell(every[name], bench, (Lane(engine, work), plain), given)
            study.put("cells", str(batch), name, value=value)
            print(batch, name, value, flush=True)


if __name__ == "__main__":
    main()
