"""What each format of weights and KV costs in quality, on the embedded model.

    python -m benchmarks.format_quality --out benchmarks/results/format_quality.json

Held-out library text (loss, and the distance of the distributions to those of
fp32), and held-out doctests. Then the same with outliers planted: some channels
of every norm times 50, the weights that follow by 1/50; and of every head one
pair of channels that rotate together times 8 in K, by 1/8 in Q. The function is
the same, and a naive 8-bit format fails on it, as it does on large models that
have such channels by nature (of K: KIVI, Liu et al. 2024; KVQuant, Hooper et al. 2024).

Beside them KV int4 as it could have been: without Hadamard's matrix, with a grid for
each head or each 32 numbers of it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import arguments, conditions, publish
from penstock import models
from penstock.compress.corpus import held_out
from penstock.compress.quality import log_probabilities, quality
from penstock.engine.kernels.plain import STORAGES
from penstock.engine.kernels.quantized import Int4Pages, from_nibbles, to_nibbles
from penstock.engine.kv import PlainPages, Storage
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.workload import doctests

PAGE = 16
PLANTED, FACTOR = 8, 50.0  # channels of each norm, and by how much
K_FACTOR = 8.0  # of one pair of channels of each head's K

FORMATS = {
    "fp32": EngineOptions(dtype="fp32", page_size=PAGE),
    "bf16, PyTorch's kernels": EngineOptions(dtype="bf16", kernels="torch", page_size=PAGE),
    "bf16": EngineOptions(dtype="bf16", page_size=PAGE),
    "int8": EngineOptions(dtype="bf16", weights="int8", page_size=PAGE),
    "int8, KV int8": EngineOptions(dtype="bf16", weights="int8", kv="int8", page_size=PAGE),
    "int4": EngineOptions(dtype="bf16", weights="int4", page_size=PAGE),
    "fp32, KV int4": EngineOptions(dtype="fp32", kv="int4", page_size=PAGE),
    "bf16, KV int8": EngineOptions(dtype="bf16", kv="int8", page_size=PAGE),
    "bf16, KV int4": EngineOptions(dtype="bf16", kv="int4", page_size=PAGE),
    "int8, KV int4": EngineOptions(dtype="bf16", weights="int8", kv="int4", page_size=PAGE),
    "int4, KV int4": EngineOptions(dtype="bf16", weights="int4", kv="int4", page_size=PAGE),
}


class Unspread(PlainPages):
    """As int4 would keep K and V without Hadamard's matrix."""

    group: int | None = None  # numbers that share a grid; None: a head

    def write(self, slots: Tensor, kv: Tensor) -> None:
        """As `KVPages.write`."""
        grouped = kv.reshape(*kv.shape[:-1], -1, self.group or kv.shape[-1])
        as_is = torch.eye(grouped.shape[-1])
        kept = from_nibbles(*to_nibbles(grouped, as_is), as_is, kv.dtype)
        super().write(slots, kept.flatten(-2))


class By32(Unspread):
    """The same with more grids."""

    group = 32


OTHERWISE: dict[str, Storage] = {
    "fp32, KV int4 without Hadamard": Unspread,
    "fp32, KV int4 without Hadamard, by 32": By32,
}
FORMATS |= dict.fromkeys(OTHERWISE, FORMATS["fp32, KV int4"])


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


def plant_keys(checkpoint: Path) -> None:
    """Make one pair of channels of each KV head's keys large, and of its queries small."""
    head_dim = json.loads((checkpoint / "config.json").read_text())["head_dim"]
    tensors = load_file(checkpoint / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith("k_proj.weight")]:
        hidden = tensors[name].shape[1]
        keys = tensors[name].view(-1, head_dim, hidden)
        queries = tensors[name.replace("k_proj", "q_proj")].view(len(keys), -1, head_dim, hidden)
        for key, own in zip(keys, queries, strict=True):
            pair = int(torch.randint(head_dim // 2, (), generator=generator))
            for channel in (pair, pair + head_dim // 2):  # they rotate together
                key[channel] *= K_FACTOR
                own[:, channel] /= K_FACTOR
    save_file(tensors, checkpoint / "model.safetensors")


def measure(model: str, length: int, limit: int, each: int) -> dict[str, Any]:
    """Every format's figures, beside those of fp32."""
    result: dict[str, Any] = {}
    reference: list[Tensor] = []
    for name, options in FORMATS.items():
        with patch.dict(STORAGES, int4=OTHERWISE.get(name, Int4Pages)):
            llm = LLM(model, options)
        rows = held_out(llm.tokenizer.encode, length, limit)
        reference = reference or list(log_probabilities(llm, rows))
        found = quality(llm, rows, reference, each)
        assert found.doctests_right is not None
        result[name] = {
            "loss_nats": round(found.loss, 4),
            "kl_to_fp32_nats": round(found.kl, 6),
            "doctests_right": round(found.doctests_right, 4),
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
        plant_keys(Path(folder))
        result["with outliers"] = measure(folder, *figures)
    result["with outliers"].pop("conditions")  # the same, but for a folder that is gone
    result["as it is"]["conditions"] |= {
        "held_out_tokens": given.tokens * given.texts,
        "doctests": given.tasks * len(doctests.GRADES),
        "planted": f"{PLANTED} channels of every layer's norms x {FACTOR:g}, "
        f"a pair of every head's K x {K_FACTOR:g}",
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
