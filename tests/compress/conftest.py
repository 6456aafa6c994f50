"""Small random models on disk, with weights large enough to have opinions."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Work

SIZES = {
    "vocab_size": 259,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 257,
    "eos_token_id": 258,
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama-biased": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=7)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
}


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """A directory by family, made once: `family("llama")`."""
    made = {}

    def make(name):
        if name not in made:
            directory = made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(1)
            kind, config = FAMILIES[name]
            model = kind(config)
            for key, parameter in model.named_parameters():
                if "norm" in key or "bias" in key:
                    parameter.data += 0.2 * torch.randn_like(parameter)
            model.bfloat16().save_pretrained(directory)
            tokenizer().save(str(directory / "tokenizer.json"))
        return made[name]

    return make


def tokenizer() -> Tokenizer:
    """Bytes, and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    return made


@pytest.fixture
def llama(family) -> Checkpoint:
    return Checkpoint.read(family("llama"))


@pytest.fixture
def desk(tmp_path) -> Desk:
    """Random calibration rows, and an empty place to keep parts."""
    rows = torch.randint(0, 256, (6, 33), generator=torch.Generator().manual_seed(3))
    return Desk(rows, Work(tmp_path / "work", {"plan": 1}))
