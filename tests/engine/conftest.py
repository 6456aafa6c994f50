"""A small random checkpoint on disk, as a user's would be, and some that are like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.engine.kv import KVStore
from penstock.engine.model.decoder import Decoder
from penstock.engine.speculate import choose
from penstock.engine.speculate.lengths import StepTable

FAVOURITES = range(3, 256, 26)  # tokens that `repeating` likes to say
LEAST_STEP = 20  # tokens: where `guesses_pay`, steps may take more, and fewer sequences run


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
    return altered(checkpoint, tmp_path_factory.mktemp("draft"), disturbed(0.02))


@pytest.fixture(scope="session")
def repeating(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, fond of ten tokens: its text repeats, so that what is copied comes true."""

    def louder(name: str, weight: Tensor) -> Tensor:
        if name == "lm_head.weight":
            weight[FAVOURITES] *= 4.0
        return weight

    return altered(checkpoint, tmp_path_factory.mktemp("repeating"), louder)


@pytest.fixture(scope="session")
def repeating_draft(repeating: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model for it."""
    return altered(repeating, tmp_path_factory.mktemp("repeating-draft"), disturbed(0.006))


def altered(checkpoint: Path, to: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    """A checkpoint whose weights are changed, by name."""
    for file in checkpoint.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(1)
    weights = load_file(checkpoint / "model.safetensors")
    changed = {name: change(name, weight) for name, weight in weights.items()}
    save_file(changed, to / "model.safetensors", metadata={"format": "pt"})
    return to


def disturbed(noise: float) -> Callable[[str, Tensor], Tensor]:
    return lambda name, weight: weight + noise * torch.randn_like(weight)


@pytest.fixture
def guesses_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as if rows cost little, and a draft model's a tenth: no clock says what is guessed."""

    def table(decoder: Decoder, kv: KVStore, most: int) -> StepTable:
        drafting = most < LEAST_STEP  # it is asked for no more rows than sequences run
        return StepTable((1, 96), (0.1, 0.13) if drafting else (1.0, 1.3))

    monkeypatch.setattr(choose, "step_table", table)
