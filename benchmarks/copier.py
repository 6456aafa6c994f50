"""A model that can copy, and little else: trained here, in some minutes of one core.

The embedded model hardly looks back a thousand tokens, so what it loses by forgetting says
nothing of models that do. This one has two layers and 0.2 million parameters, and learns
on random tokens: first texts that repeat a passage over and over, where the habit of looking
for what came last time forms quickly, then long ones whose end repeats a passage from anywhere.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, FIRST = 128, 2  # ids of random text are FIRST and up; 1 begins a text
STEPS = (600, 600)
ROWS = 4096  # tokens of a batch, at most


def copier(directory: Path, seed: int = 0) -> Path:
    """Train it into a directory in Hugging Face layout, unless it is there."""
    if (directory / "model.safetensors").exists():
        return directory
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    for name, batches, most in (
        ("repeating", _repeating(STEPS[0], seed), 4e-3),
        ("looking back", _looking_back(STEPS[1], seed), 1.5e-3),
    ):
        _train(model, name, batches, most)
    model.save_pretrained(directory)
    return directory


def _train(
    model: LlamaForCausalLM, name: str, batches: list[tuple[Tensor, Tensor]], most: float
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=most, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, most, total_steps=len(batches), pct_start=0.15
    )
    for tokens, copied in track(batches, name):
        said, known = model(tokens).logits[:, :-1], copied[:, 1:]
        loss = torch.nn.functional.cross_entropy(said[known], tokens[:, 1:][known])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()


def _repeating(steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Tokens [rows, length], and which of them a copier can know."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for step in range(steps):
        length = 32 * 2 ** (3 * step // steps)
        tokens, copied = _random(length, generator)
        for row, known in zip(tokens, copied, strict=True):
            size = int(torch.randint(8, length // 2 + 1, (), generator=generator))
            row[size:] = row[:size].repeat(length // size)[: length - size]
            known[size + 2 :] = True
        made.append((tokens, copied))
    return made


def _looking_back(steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed + 1)
    made = []
    for step in range(steps):
        length = (128, 256, 512, 1024)[step % 4]
        tokens, copied = _random(length, generator)
        for row, known in zip(tokens, copied, strict=True):
            size = int(torch.randint(8, min(length // 3, 96), (), generator=generator))
            start = int(torch.randint(1, length - 2 * size, (), generator=generator))
            row[-size:] = row[start : start + size].clone()
            known[-size + 2 :] = True
        made.append((tokens, copied))
    return made


def _random(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = max(4, ROWS // length)
    tokens = torch.randint(FIRST, VOCABULARY, (rows, length), generator=generator)
    tokens[:, 0] = 1
    return tokens, torch.zeros(rows, length, dtype=torch.bool)
