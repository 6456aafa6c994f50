"""What int4 and int8 weights cost by each method of rounding, on the embedded model.

    python -m benchmarks.compress_quality --out benchmarks/results/compress_quality.json

As it is and with outliers planted; what is measured is what the engine serves: integer
weights, activations in int8. Every method has the engine's own balance of norms and
choice of scales, so rounding to nearest is as good as `--weights int4` of the engine.
That balance undoes outliers that a norm makes (format_quality plants those) before
anything is rounded. So here they stand where there is no norm: in what feeds `down` and `o`.
Begun again with the same --out, it goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Study
from benchmarks.format_quality import FACTOR, PLANTED
from benchmarks.judge import Judge, arguments
from penstock import models
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Work
from penstock.compress.quantize import Quantize, quantize
from penstock.compress.sites import absorb, sites
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions

WAYS = {
    "int4 RTN": Quantize(bits=4, method="rtn"),
    "int4 GPTQ": Quantize(bits=4, method="gptq"),
    "int4 GPTQ, act-order": Quantize(bits=4, method="gptq", act_order=True),
    "int4 AWQ": Quantize(bits=4, method="awq"),
    "int4 RTN, group 32": Quantize(bits=4, method="rtn", group=32),
    "int4 GPTQ, group 32": Quantize(bits=4, method="gptq", group=32),
    "int4 AWQ, group 32": Quantize(bits=4, method="awq", group=32),
    "int8 RTN": Quantize(bits=8, method="rtn"),
    "int8 GPTQ": Quantize(bits=8, method="gptq"),
    "int8 AWQ": Quantize(bits=8, method="awq"),
}
HOW = (
    f"{PLANTED} rows of every layer's up and of its v x {FACTOR:g}, the columns of down and o "
    f"that read them by 1/{FACTOR:g}"
)
# With outliers a checkpoint is in fp32, in which the integer kernels do not compute.
SERVED = EngineOptions(dtype="bf16")


def planted(checkpoint: Checkpoint) -> Checkpoint:
    """The same function in fp32, with outliers in what feeds `down` and `o` of every layer."""
    generator = torch.Generator().manual_seed(0)
    tensors = checkpoint.floats()
    for index, shape in enumerate(checkpoint.shape.layers):
        prefix = f"model.layers.{index}."
        own = {name: tensors[prefix + name] for name in checkpoint.layer(index)}
        for site in sites(shape):
            if site.name not in ("output", "down"):
                continue
            rows = len(own[f"{site.source}.weight"])
            by = torch.ones(rows)
            by[torch.randperm(rows, generator=generator)[:PLANTED]] /= FACTOR
            if site.name == "output":  # several query heads read one V
                by = by.view(shape.kv_heads, -1).repeat(1, shape.heads // shape.kv_heads).flatten()
            absorb(own, shape, site, by, torch.float32)
        tensors |= {prefix + name: tensor for name, tensor in own.items()}
    config = {**checkpoint.config, "dtype": "float32", "torch_dtype": "float32"}
    return replace(checkpoint, config=config, tensors=tensors)


def measure(study: Study, title: str, source: Path, given: Any) -> None:
    """Every way that is not known yet, of one model."""
    checkpoint = Checkpoint.read(source)
    calibration = corpus.calibration(checkpoint, given.rows, given.length)
    judge = Judge(LLM(str(source), SERVED), given)
    study.put(title, "original", value=judge.original)
    told = {
        "calibration": f"{given.rows} rows of {given.length} tokens, train split",
        "planted": HOW,
    }
    study.put("conditions", value=judge.conditions | told)
    for name, how in WAYS.items():
        if study.has(title, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(calibration, Work(Path(folder) / "work", {}))
            made = quantize(checkpoint, how, desk).checkpoint
            made.write(Path(folder) / "made", {})
            found = judge.figures(LLM(str(Path(folder) / "made"), SERVED))
        study.put(title, name, value=found)
        print(f"{title}, {name}: {found['loss_over_original']:+.3%}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=64, help="of calibration")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row of calibration")
    given = parser.parse_args()
    study = Study(given.out)
    if study.result.get("conditions", {}).get("planted", HOW) != HOW:
        parser.error(f"{given.out} is of other outliers than these; remove it, or change --out")
    source = models.path(given.model)
    measure(study, "as it is", source, given)
    with tempfile.TemporaryDirectory() as folder:
        planted(Checkpoint.read(source)).write(Path(folder) / "planted", {"planted": HOW})
        measure(study, "with outliers", Path(folder) / "planted", given)


if __name__ == "__main__":
    main()
