"""A small random checkpoint on disk, as a user's would be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama shape, 3 layers, GQA, 259 byte tokens, random weights large enough to have opinions."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=257,
        eos_token_id=258,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def draft(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, disturbed: it guesses right often, and not always."""
    directory = tmp_path_factory.mktemp("draft")
    for file in checkpoint.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(1)
    weights = load_file(checkpoint / "model.safetensors")
    noisy = {name: w + 0.02 * torch.randn_like(w) for name, w in weights.items()}
    save_file(noisy, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
