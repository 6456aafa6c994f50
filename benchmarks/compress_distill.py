"""A quarter of the depth taken out, then trained: with the whole model as teacher, and without.

    python -m benchmarks.compress_distill --out benchmarks/results/compress_distill.json

Both trainings take the same minutes of the same rows from the same pruned start; a
teacher's forward passes are within its minutes. Rates are tried at a tenth of the time
first, so that neither is held back by the other's best. Begun again with the same --out
and --work, it goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.common import Study
from benchmarks.judge import Judge, arguments
from penstock import models
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.depth import Depth, prune_depth
from penstock.compress.desk import Desk, Work
from penstock.compress.distill import Distill, distil
from penstock.engine.llm import LLM

RATES = (2e-4, 5e-4, 1e-3)


def trained(start: Checkpoint, whole: Checkpoint, how: Distill, work: Path) -> Checkpoint:
    """The pruned model after its minutes."""
    plan = msgspec.to_builtins(how)
    desk = Desk(torch.empty(0), Work(work, plan), _say())
    teacher = whole if how.teacher else None
    return distil(start, teacher, how, desk).checkpoint


def _say() -> Any:
    said = [0.0]

    def say(title: str, done: int, total: int) -> None:
        if time.monotonic() - said[0] > 30:
            print(f"{title}: {done} of {total} s", flush=True)
            said[0] = time.monotonic()

    return say


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--work", type=Path, default=Path("runs/compress_distill"))
    given = parser.parse_args()
    study = Study(given.out)
    source = models.path(given.model)
    whole = Checkpoint.read(source)
    rows = corpus.calibration(whole, 32, 256)
    judge = Judge(LLM(str(source)), given)
    layers = round(len(whole.shape.layers) / 4)
    pruned = prune_depth(
        whole, Depth(layers=layers), Desk(rows, Work(given.work / "depth", {"layers": layers}))
    ).checkpoint

    def keep(name: str, made: Checkpoint, **more: Any) -> None:
        place = given.work / f"{name.replace(' ', '-')}"
        if not place.exists():
            made.write(place, {})
        found = judge.figures(LLM(str(place)))
        study.put(name, value=found | more)
        print(f"{name}: loss {found['loss_over_original']:+.2%}", flush=True)

    study.put("original", value=judge.original)
    study.put("conditions", value=judge.conditions | {"minutes": given.minutes})
    if not study.has("pruned"):
        keep("pruned", pruned, layers_left=len(pruned.shape.layers))
    for name, teacher in (("distilled", str(source)), ("fine-tuned", None)):
        tries = {}
        for rate in RATES:
            title = f"{name} tenth {rate:g}"
            short = Distill(minutes=given.minutes / 10, teacher=teacher, peak=rate)
            if not study.has(title):
                keep(title, trained(pruned, whole, short, given.work / f"{title}-work"), rate=rate)
            tries[rate] = study.result[title]["loss_nats"]
        best = min(tries, key=tries.__getitem__)
        if not study.has(name):
            long = Distill(minutes=given.minutes, teacher=teacher, peak=best)
            keep(name, trained(pruned, whole, long, given.work / f"{name}-work"), rate=best)


if __name__ == "__main__":
    main()
