"""SwiftKV: how much faster prompts are read, where nothing is gained, and what it costs in loss.

    python -m benchmarks.swiftkv --out benchmarks/results/swiftkv.json

Speed is of random weights at a real shape (`--shape`, made before with `penstock models
make`), converted at half depth; original and converted take turns in every round. Loss is
that of the embedded model as the engine serves it: converted, distilled lightly (only the
deep layers' W_q, W_k, W_v) for `--minutes` at the best of three rates tried for a tenth of
them, and as long with every weight trained; other minutes come beside these. The two are
set side by side and never multiplied. `--part speed` or `quality` does one; begun again with
the same --out and --work, it goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.common import Study, conditions, spread
from benchmarks.compress_distill import trained
from benchmarks.judge import Judge, arguments
from penstock import models
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Work
from penstock.compress.distill import Distill
from penstock.compress.speed import Load, rate
from penstock.compress.swiftkv import SwiftKV, swiftkv
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions

# A pool of a few prompts, used all over again as a server's is: its memory is there. No
# prompt finds its beginning in it.
POOL = EngineOptions(kv_tokens=4096, prefix_sharing=False)
FORMATS = {
    "bf16": POOL,
    "int8 weights, int8 KV": msgspec.structs.replace(POOL, weights="int8", kv="int8"),
}
LOADS = {
    "prompt of 1,024": Load(1, 1024, 1),
    "prompt of 2,048": Load(1, 2048, 1),
    "prompt of 512": Load(1, 512, 1),
    "prompt of 128": Load(1, 128, 1),
    "1,024 in, 128 out": Load(1, 1024, 128),
    "32 in, 128 out": Load(1, 32, 128),
    "32 in, 128 out, 16 at once": Load(16, 32, 128),
}
WAYS = {
    "behind 3/4": SwiftKV(full=0.75),
    "behind 1/2": SwiftKV(full=0.5),
    "behind 1/2, 2 share": SwiftKV(full=0.5, group=2),
    "behind 1/4": SwiftKV(full=0.25),
}
HALF = "behind 1/2"
RATES = (1e-3, 2e-3, 4e-3)


def measure_speed(study: Study, given: Any) -> None:
    """Each load on the original and on the converted shape, in turn."""
    source = models.path(given.shape)
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "swiftkv"
        whole = Checkpoint.read(source)
        few = torch.randint(0, whole.shape.vocab_size, (1, 9))  # what it sees does not matter
        made = swiftkv(whole, WAYS[HALF], Desk(few, Work(Path(folder) / "work", {})))
        made.checkpoint.write(converted, {})
        del whole, made
        for form, options in FORMATS.items():
            if not (names := [n for n in LOADS if not study.has("speed", form, n)]):
                continue
            llms = {
                "original": LLM(str(source), options),
                "swiftkv": LLM(str(converted), options),
            }
            facts = llms["swiftkv"].engine.facts
            told = conditions(llms["original"].engine) | {"model": given.shape}
            told |= {"max_step_tokens": options.max_step_tokens, "rounds": given.rounds}
            study.put("conditions", "speed", value=told)
            before = llms["original"].engine.facts
            study.put(
                "arithmetic",
                value={
                    # Of a prompt's token, attention apart: what is left of the products.
                    "prompt_flops_left": (facts.flops_per_token - facts.head_flops)
                    / (before.flops_per_token - before.head_flops),
                    "layers_left": llms["swiftkv"].engine.decoder.config.full_layers
                    / len(llms["swiftkv"].engine.decoder.layers),
                },
            )
            for name in names:
                rounds = [
                    {which: rate(llm, LOADS[name], seed) for which, llm in llms.items()}
                    for seed in range(given.rounds + 1)
                ][1:]  # the first warms up
                value = {which: spread([each[which] for each in rounds]) for which in llms}
                value["times"] = spread([each["swiftkv"] / each["original"] for each in rounds])
                study.put("speed", form, name, value=value)
                print(f"{form}, {name}: {value['times']['median']:.2f} x", flush=True)


def measure_quality(study: Study, given: Any) -> None:
    """Loss of the embedded model: converted, then trained."""
    source = models.path(given.model)
    whole = Checkpoint.read(source)
    rows = corpus.calibration(whole, 8, 256)
    judge = Judge(LLM(str(source)), given)
    study.put("quality", "original", value=judge.original)
    study.put("conditions", "quality", value=judge.conditions)

    def keep(name: str, made: Checkpoint, **more: Any) -> None:
        place = given.work / name.replace("/", "-").replace(" ", "-")
        if not place.exists():
            made.write(place, {})
        llm = LLM(str(place))
        found = judge.figures(llm)
        more["kv_bytes_per_token"] = llm.engine.facts.kv_bytes_per_token
        study.put("quality", name, value=found | more)
        print(f"{name}: {found['loss_over_original']:+.2%}", flush=True)

    made = {
        name: swiftkv(whole, how, Desk(rows, Work(given.work / "convert", {})))
        for name, how in WAYS.items()
    }
    for name, each in made.items():
        if not study.has("quality", name):
            keep(name, each.checkpoint, apart=each.details["K and V made of the one input"])

    def train(start: str, how: Distill, *, tried: bool = False) -> float:
        """The loss of one of `made` after its training."""
        what = "light" if how.light else "all"
        name = f"{start}, {how.minutes:g} min {what} at {how.peak:g}"
        if not study.has("quality", name):
            work = given.work / f"{name.replace('/', '-').replace(' ', '-')}-work"
            taught = trained(made[start].checkpoint, whole, how, work)
            keep(name, taught, rate=how.peak, minutes=how.minutes, light=how.light, tried=tried)
        loss: float = study.result["quality"][name]["loss_nats"]
        return loss

    base = Distill(minutes=given.minutes, teacher=str(source), light=True)
    tenth = msgspec.structs.replace(base, minutes=given.minutes / 10)
    best = min(
        RATES,
        key=lambda peak: train(HALF, msgspec.structs.replace(tenth, peak=peak), tried=True),
    )
    for name in (HALF, "behind 1/2, 2 share", "behind 1/4"):
        train(name, msgspec.structs.replace(base, peak=best))
    train(HALF, msgspec.structs.replace(base, light=False, peak=5e-4))  # a rate for all weights


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shape", default="qwen3-0.6b")
    parser.add_argument("--part", choices=("speed", "quality", "all"), default="all")
    parser.add_argument("--minutes", type=float, default=15, help="of each training")
    parser.add_argument("--work", type=Path, default=Path("runs/swiftkv"))
    given = parser.parse_args()
    study = Study(given.out)
    for part, measure in (("speed", measure_speed), ("quality", measure_quality)):
        if given.part in (part, "all"):
            measure(study, given)


if __name__ == "__main__":
    main()
