"""What int4 and int8 weights cost by each method of rounding, on the embedded model.

    python -m benchmarks.compress_quality --out benchmarks/results/compress_quality.json

As it is and with outliers planted (see format_quality); what is measured is what the
engine serves: integer weights, activations in int8. Every method has the engine's own
balance of norms and choice of scales, so rounding to nearest is as good as `--weights
int4` of the engine. Begun again with the same --out, it goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.common import arguments, conditions
from benchmarks.format_quality import FACTOR, PLANTED, plant
from penstock import models
from penstock.compress import corpus
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Work
from penstock.compress.quality import Quality, log_probabilities, quality
from penstock.compress.quantize import Quantize, quantize
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.workload import doctests

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
}
# With outliers a checkpoint is in fp32, in which the integer kernels do not compute.
SERVED = EngineOptions(dtype="bf16")


def figures(found: Quality, before: Quality) -> dict[str, Any]:
    """One way's figures as they are published."""
    lost, ends = found.lost(before)
    return {
        "loss_nats": round(found.loss, 5),
        "loss_over_original": round(lost, 6),
        "loss_over_original_ci95": ends and [round(end, 6) for end in ends],
        "kl_to_original_nats": round(found.kl, 6),
        "doctests_right": found.doctests_right,
        "losses": [round(loss, 6) for loss in found.losses],
    }


class Study:
    """Results so far, written after each."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.result: dict[str, Any] = {}
        if out is not None and out.exists():
            self.result = json.loads(out.read_text())

    def put(self, *path: str, value: Any) -> None:
        """Keep a value."""
        place = self.result
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text(json.dumps(self.result, indent=1) + "\n")

    def has(self, *path: str) -> bool:
        """Whether it is known."""
        place = self.result
        for name in path:
            if name not in place:
                return False
            place = place[name]
        return True


def measure(study: Study, title: str, source: Path, given: Any) -> None:
    """Every way that is not known yet, of one model."""
    checkpoint = Checkpoint.read(source)
    coder = Tokenizer.from_file(str(source / "tokenizer.json"))
    calibration = corpus.calibration(
        coder, checkpoint.shape.eos_token_ids[:1], given.rows, given.length
    )
    original = LLM(str(source), SERVED)
    rows = corpus.held_out(original.tokenizer.encode, given.tokens, given.texts)
    reference = list(log_probabilities(original, rows))
    before = quality(original, rows, reference, given.tasks)
    study.put(title, "original", value=figures(before, before))
    study.put("conditions", value=conditions(original.engine) | _conditions(given))
    for name, how in WAYS.items():
        if study.has(title, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(calibration, Work(Path(folder) / "work", {}))
            made = quantize(checkpoint, how, desk).checkpoint
            made.write(Path(folder) / "made", {})
            llm = LLM(str(Path(folder) / "made"), SERVED)
            found = quality(llm, rows, reference, given.tasks)
        study.put(title, name, value=figures(found, before))
        print(f"{title}, {name}: {study.result[title][name]['loss_over_original']:+.3%}")


def _conditions(given: Any) -> dict[str, Any]:
    return {
        "model": given.model,
        "held_out_tokens": given.tokens * given.texts,
        "doctests": given.tasks * len(doctests.GRADES),
        "calibration": f"{given.rows} rows of {given.length} tokens, train split",
        "planted": f"{PLANTED} channels of every layer's norms x {FACTOR:g}",
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="of a row of text")
    parser.add_argument("--texts", type=int, default=40, help="rows of text")
    parser.add_argument("--tasks", type=int, default=40, help="doctests of each grade")
    parser.add_argument("--rows", type=int, default=64, help="of calibration")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row of calibration")
    given = parser.parse_args()
    study = Study(given.out)
    measure(study, "as it is", models.path(given.model), given)
    with tempfile.TemporaryDirectory() as folder:
        plant(models.path(given.model), Path(folder))
        measure(study, "with outliers", Path(folder), given)


if __name__ == "__main__":
    main()
