"""Pruning at equal sparsity: structured, unstructured and 2:4; latency, loss and cost.

    python -m benchmarks.compress_pruning --out benchmarks/results/compress_pruning.json

Quality is that of the embedded model, before any recovery; speed that of random weights
at a real shape pruned in the same proportions (`--shape`, made before with `penstock
models make`). The two are set side by side and never multiplied. Depth by three
orders, width by two kinds of importance, even and uneven. `--part quality`, `layers` or
`speed` does one of the three; begun again with the same --out, it goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.common import Study, conditions
from benchmarks.judge import Judge, arguments
from penstock import models
from penstock.compress import corpus, forward
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.depth import Depth, prune_depth, without
from penstock.compress.desk import Desk, Made, Work
from penstock.compress.sparse import Sparsify, sparsify
from penstock.compress.speed import BATCHES, speeds
from penstock.compress.width import Width, prune_width
from penstock.engine.llm import LLM

Prune = Callable[[Checkpoint, Desk], Made]


def depth(share: float, order: Any, seed: int = 0) -> Prune:
    """Take this share of the layers out."""

    def prune(checkpoint: Checkpoint, desk: Desk) -> Made:
        count = round(share * len(checkpoint.shape.layers))
        return prune_depth(checkpoint, Depth(layers=count, order=order, seed=seed), desk)

    return prune


def width(share: float, importance: Any, *, uneven: bool = False) -> Prune:
    """Take this share of the feed-forward neurons out."""

    def prune(checkpoint: Checkpoint, desk: Desk) -> Made:
        how = Width(neurons=1 - share, importance=importance, uneven=uneven)
        return prune_width(checkpoint, how, desk)

    return prune


def zeros(share: float, pattern: Any) -> Prune:
    """Set this share of the weights of layers to zero."""
    return lambda checkpoint, desk: sparsify(
        checkpoint, Sparsify(share=share, pattern=pattern), desk
    )


# Attention is a quarter of a layer's weights in the embedded model: a third of the
# neurons is a quarter of the layer. (A KV head would be half of the attention.)
WAYS: dict[str, Prune] = {
    "depth 1/8, loss": depth(1 / 8, "loss"),
    "depth 1/8, influence": depth(1 / 8, "influence"),
    "depth 1/8, random": depth(1 / 8, "random"),
    "depth 1/4, loss": depth(1 / 4, "loss"),
    "depth 1/4, influence": depth(1 / 4, "influence"),
    "depth 1/4, random": depth(1 / 4, "random"),
    "depth 1/4, random, seed 1": depth(1 / 4, "random", 1),
    "depth 1/4, random, seed 2": depth(1 / 4, "random", 2),
    "neurons 1/3, activation": width(1 / 3, "activation"),
    "neurons 1/3, Taylor": width(1 / 3, "taylor"),
    "neurons 1/3, activation, uneven": width(1 / 3, "activation", uneven=True),
    "zeros 1/4, free": zeros(1 / 4, "free"),
    "depth 1/2, loss": depth(1 / 2, "loss"),
    "zeros 1/2, free": zeros(1 / 2, "free"),
    "zeros 1/2, 2:4": zeros(1 / 2, "2:4"),
}
TIMED = (
    "depth 1/4, random",
    "neurons 1/3, activation",
    "zeros 1/4, free",
    "depth 1/2, loss",
    "zeros 1/2, free",
    "zeros 1/2, 2:4",
)


def measure_quality(study: Study, given: Any) -> None:
    """Every way's loss on the embedded model."""
    source = models.path(given.model)
    checkpoint = Checkpoint.read(source)
    calibration = corpus.calibration(checkpoint, given.rows, given.length)
    judge = Judge(LLM(str(source)), given)
    study.put("quality", "original", value=judge.original)
    seen = f"{given.rows} rows of {given.length} tokens, train split"
    study.put("conditions", "quality", value=judge.conditions | {"calibration": seen})
    for name, prune in WAYS.items():
        if study.has("quality", name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            made = prune(checkpoint, Desk(calibration, Work(Path(folder) / "work", {})))
            made.checkpoint.write(Path(folder) / "made", {})
            found = judge.figures(LLM(str(Path(folder) / "made")))
        value = found | {
            "parameters": made.checkpoint.parameters,
            "of_layers": _in_layers(made.checkpoint) / _in_layers(checkpoint),
        }
        study.put("quality", name, value=value)
        print(f"{name}: loss {value['loss_over_original']:+.2%}")


def measure_layers(study: Study, given: Any) -> None:
    """What each layer alone is worth to text that the model was trained on, and to other text."""
    source = models.path(given.model)
    checkpoint = Checkpoint.read(source)
    coder = Tokenizer.from_file(str(source / "tokenizer.json"))
    texts = {
        "calibration": corpus.calibration(checkpoint, given.rows, given.length),
        "held_out": corpus.held_out(lambda text: coder.encode(text).ids, given.length, given.rows),
    }
    told = f"{given.rows} rows of {given.length} tokens of each, in fp32"
    study.put("conditions", "layers", value={"model": given.model, "text": told})
    for gone in (None, *range(len(checkpoint.shape.layers))):
        left = checkpoint if gone is None else without(checkpoint, {gone})
        losses = {
            name: forward.loss(left.shape, left.floats(), rows) for name, rows in texts.items()
        }
        study.put("without a layer", "none" if gone is None else str(gone), value=losses)
        print(f"without layer {gone}: {losses}")


def measure_speed(study: Study, given: Any) -> None:
    """The ways of `TIMED` on random weights at a real shape, all in turn."""
    source = models.path(given.shape)
    checkpoint = Checkpoint.read(source)
    few = torch.randint(0, checkpoint.shape.vocab_size, (1, 17))  # what goes does not matter
    with tempfile.TemporaryDirectory() as folder:
        places, left = {"original": source}, {"original": 1.0}
        for number, name in enumerate(TIMED):
            places[name] = Path(folder) / str(number)
            work = Work(Path(folder) / f"work-{number}", {})
            made = WAYS[name](checkpoint, Desk(few, work)).checkpoint
            left[name] = _in_layers(made) / _in_layers(checkpoint)
            made.write(places[name], {})
        del checkpoint, made
        llms = {name: LLM(str(place)) for name, place in places.items()}
        found = speeds(llms, rounds=given.rounds)
        study.put(
            "conditions",
            "speed",
            value=conditions(llms["original"].engine)
            | {"model": given.shape, "rounds": given.rounds},
        )
        for name, rates in found.items():
            value = {str(rate.sequences): [rate.least, rate.median, rate.most] for rate in rates}
            value["step_bytes"] = [llms[name].engine.facts.weight_bytes]
            value["of_layers"] = [left[name]]  # the same way leaves more or less of other shapes
            study.put("speed", name, value=value)
            print(name, {batch: value[str(batch)] for batch in BATCHES})


def _in_layers(checkpoint: Checkpoint) -> int:
    """Weights of the layers' matrices that are not zero."""
    return sum(
        int(tensor.count_nonzero())
        for name, tensor in checkpoint.tensors.items()
        if name.startswith("model.layers.") and tensor.ndim == 2
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=15)
    parser.add_argument("--shape", default="llama-110m")
    parser.add_argument("--part", choices=("quality", "layers", "speed", "all"), default="all")
    parser.add_argument("--rows", type=int, default=32, help="of calibration")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row of calibration")
    given = parser.parse_args()
    study = Study(given.out)
    measures = {"quality": measure_quality, "layers": measure_layers, "speed": measure_speed}
    for part, measure in measures.items():
        if given.part in (part, "all"):
            measure(study, given)


if __name__ == "__main__":
    main()
