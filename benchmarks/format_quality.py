"""What each format of weights and KV costs in quality, on the embedded model.

    python -m benchmarks.format_quality --out benchmarks/results/format_quality.json

Held-out library text (loss, and the distance of the distributions to those of
fp32), and held-out doctests. Then the same with outliers planted: some channels
of every norm times 50, the weights that follow by 1/50. The function is the
same, and a naive 8-bit format fails on it, as it does on large models that
have such channels by nature.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import arguments, conditions, publish
from penstock import models
from penstock.engine.kv import KVStore
from penstock.engine.llm import LLM
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams
from penstock.workload import doctests, stdlib

PAGE = 16
PLANTED, FACTOR = 8, 50.0  # channels of each norm, and by how much

ANSWER = SamplingParams(temperature=0.0, max_tokens=32)

FORMATS = {
    "fp32": EngineOptions(dtype="fp32", page_size=PAGE),
    "bf16, PyTorch's kernels": EngineOptions(dtype="bf16", kernels="torch", page_size=PAGE),
    "bf16": EngineOptions(dtype="bf16", page_size=PAGE),
    "int8": EngineOptions(dtype="bf16", weights="int8", page_size=PAGE),
    "int8, KV int8": EngineOptions(dtype="bf16", weights="int8", kv="int8", page_size=PAGE),
    "int4": EngineOptions(dtype="bf16", weights="int4", page_size=PAGE),
}


def held_out(llm: LLM, length: int, limit: int) -> Tensor:
    """Disjoint rows of `length` + 1 tokens, evenly spread over the held-out modules."""
    ids = [i for _, text in stdlib.texts("held_out") for i in llm.tokenizer.encode(text)]
    rows = torch.tensor(ids[: len(ids) // (length + 1) * (length + 1)]).view(-1, length + 1)
    return rows[:: max(1, len(rows) // limit)][:limit]


def log_probabilities(llm: LLM, rows: Tensor) -> Iterator[Tensor]:
    """Of every next token at every position of every row: fp32 [length, vocab] each."""
    decoder = llm.engine.decoder
    length = rows.shape[1] - 1
    pages = -(-length // PAGE)
    kv = KVStore(
        decoder.kv_layers(),
        pages,
        PAGE,
        decoder.dtype,
        decoder.device,
        storage=decoder.kernels.pages,
    )
    none = torch.empty(0, dtype=torch.int64)
    for row in rows:
        batch = StepBatch(
            tokens=row[:-1].contiguous(),
            positions=torch.arange(length),
            slots=torch.arange(length),
            decodes=0,
            decode_tables=none.view(0, 0),
            decode_contexts=none,
            max_decode_context=0,
            prefills=[PrefillSpan(0, length, torch.arange(pages), length)],
            logit_rows=torch.arange(length),
        )
        with torch.inference_mode():
            yield decoder.forward(batch, kv).log_softmax(-1)


def right(llm: LLM, each: int) -> float:
    """Share of held-out doctests answered right: `each` of every grade, four shots, greedy."""
    tasks = [
        task
        for grade in doctests.GRADES
        for task in islice(doctests.tasks(0, "held_out", [grade]), each)
    ]
    answers = llm.generate([doctests.few_shot(task) for task in tasks], ANSWER)
    good = sum(task.is_right(a.text) for task, a in zip(tasks, answers, strict=True))
    return good / len(tasks)


def plant(source: Path, target: Path) -> None:
    """Copy a Llama checkpoint to fp32, with outliers that leave its function unchanged."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = {k: v.float() for k, v in load_file(source / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(0)
    follows = {
        "input_layernorm": [f"self_attn.{name}_proj" for name in "qkv"],
        "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
    }
    for name, weight in tensors.items():
        layer, _, norm = name.removesuffix(".weight").rpartition(".")
        for matrix in follows.get(norm, []):
            channels = torch.randperm(len(weight), generator=generator)[:PLANTED]
            if matrix == follows[norm][0]:
                chosen = channels
                weight[chosen] *= FACTOR
            tensors[f"{layer}.{matrix}.weight"][:, chosen] /= FACTOR
    save_file({k: v.contiguous() for k, v in tensors.items()}, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config["dtype"] = config["torch_dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config))


def measure(model: str, length: int, limit: int, each: int) -> dict[str, Any]:
    """Every format's figures, beside those of fp32."""
    result: dict[str, Any] = {}
    reference: list[Tensor] = []
    for name, options in FORMATS.items():
        llm = LLM(model, options)
        rows = held_out(llm, length, limit)
        loss = distance = 0.0
        for index, (row, ours) in enumerate(zip(rows, log_probabilities(llm, rows), strict=True)):
            if name == "fp32":
                reference.append(ours)
            theirs = reference[index]
            loss += float(F.nll_loss(ours, row[1:])) / len(rows)
            distance += float(F.kl_div(ours, theirs, log_target=True, reduction="batchmean")) / len(
                rows
            )
        result[name] = {
            "loss_nats": round(loss, 4),
            "kl_to_fp32_nats": round(distance, 6),
            "doctests_right": round(right(llm, each), 4),
        }
        result.setdefault("conditions", conditions(llm.engine))
    plain = result["fp32"]["loss_nats"]
    for name in FORMATS:
        result[name]["loss_over_fp32"] = round(result[name]["loss_nats"] / plain - 1, 5)
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="of a row of text")
    parser.add_argument("--texts", type=int, default=40, help="rows of text")
    parser.add_argument("--tasks", type=int, default=60, help="doctests of each grade")
    given = parser.parse_args()
    figures = (given.tokens, given.texts, given.tasks)
    result = {"as it is": measure(given.model, *figures)}
    with tempfile.TemporaryDirectory() as folder:
        plant(models.path(given.model), Path(folder))
        result["with outliers"] = measure(folder, *figures)
    result["with outliers"].pop("conditions")  # the same, but for a folder that is gone
    result["as it is"]["conditions"] |= {
        "held_out_tokens": given.tokens * given.texts,
        "doctests": given.tasks * len(doctests.GRADES),
        "planted": f"{PLANTED} channels of every layer's norms x {FACTOR:g}",
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
