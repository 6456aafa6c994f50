"""Small random checkpoints of every family, saved by transformers as a user's would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

from penstock.engine.model import loader
from penstock.engine.model.decoder import Decoder

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Large, so that attention is far from uniform and logits lie well apart.
    "initializer_range": 0.15,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama-2": ("Llama", {"num_key_value_heads": 4}),
    "llama-3": (
        "Llama",
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5}, "tie_word_embeddings": True},
    ),
    "llama-biased": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


@dataclass
class Saved:
    """A checkpoint on disk and the transformers model it came from."""

    directory: Path
    reference: transformers.PreTrainedModel

    def load(self, dtype: torch.dtype = torch.float32) -> Decoder:
        return loader.load(self.directory, dtype, "cpu")[1]

    def logits(self, tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.reference(torch.tensor([tokens])).logits[0]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Saved]:
    """By family; "llama-3-old" is Llama 3 with its config in the hub's older spelling."""
    made: dict[str, Saved] = {}

    def make(family: str) -> Saved:
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            if family == "llama-3-old":
                reference = make("llama-3").reference
                reference.save_pretrained(directory)
                respell(directory / "config.json")
            else:
                reference = random_model(family)
                # One family in shards, the rest in one file.
                reference.save_pretrained(
                    directory, max_shard_size="150KB" if family == "qwen3" else "1GB"
                )
            made[family] = Saved(directory, reference)
        return made[family]

    return make


def random_model(family: str) -> transformers.PreTrainedModel:
    name, extra = FAMILIES[family]
    torch.manual_seed(5)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **extra})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # transformers starts these at 0 and 1, where an error would not show
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "norm" in parameter_name:
                parameter.normal_(1, 0.3)
    return model


def respell(path: Path) -> None:
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    path.write_text(json.dumps(config))
