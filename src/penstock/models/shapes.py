"""Shapes of models in use, to measure speed at; each as its publisher's `config.json` tells it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from penstock.models import SYNTHETIC_MARK


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """How Llama 3.1 and later stretch the rotary embedding of 8,192 positions."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes. `positions` is the longest context in tokens."""

    family: Literal["llama", "mistral", "qwen3"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    positions: int
    theta: float
    eps: float
    rope: Llama3Rope | None = None

    @property
    def parameters(self) -> int:
        """Weights; a tied embedding counts once."""
        return sum(math.prod(size) for _, size in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and size of every tensor, as in a checkpoint of `transformers`."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for index in range(self.layers):
            layer = f"model.layers.{index}"
            yield f"{layer}.input_layernorm.weight", (self.hidden,)
            yield f"{layer}.self_attn.q_proj.weight", (q, self.hidden)
            yield f"{layer}.self_attn.k_proj.weight", (kv, self.hidden)
            yield f"{layer}.self_attn.v_proj.weight", (kv, self.hidden)
            yield f"{layer}.self_attn.o_proj.weight", (self.hidden, q)
            if self.family == "qwen3":
                yield f"{layer}.self_attn.q_norm.weight", (self.head_dim,)
                yield f"{layer}.self_attn.k_norm.weight", (self.head_dim,)
            yield f"{layer}.post_attention_layernorm.weight", (self.hidden,)
            yield f"{layer}.mlp.gate_proj.weight", (self.ffn, self.hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.ffn, self.hidden)
            yield f"{layer}.mlp.down_proj.weight", (self.hidden, self.ffn)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab, self.hidden)

    def config(self, dtype: str) -> dict[str, Any]:
        """The `config.json`, in the spelling of transformers 4, which 5 and others read too.

        Special tokens are those of the embedded model's tokenizer.
        """
        architecture = {"llama": "Llama", "mistral": "Mistral", "qwen3": "Qwen3"}[self.family]
        scaling = None
        if self.rope is not None:
            scaling = {"rope_type": "llama3"} | asdict(self.rope)
        return {
            "architectures": [f"{architecture}ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.positions,
            "model_type": self.family,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": 0,
            "rms_norm_eps": self.eps,
            "rope_scaling": scaling,
            "rope_theta": self.theta,
            "sliding_window": None,
            "tie_word_embeddings": self.tied,
            "torch_dtype": dtype,
            "use_cache": True,
            "vocab_size": self.vocab,
            SYNTHETIC_MARK: True,
        }


def _qwen3(hidden: int, layers: int, heads: int, ffn: int) -> Shape:
    return Shape(
        family="qwen3",
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        ffn=ffn,
        vocab=151_936,
        tied=True,
        positions=40_960,
        theta=1e6,
        eps=1e-6,
    )


SHAPES = {
    # Nobody's model, but the smallest shape people try engines with. Its context
    # is longer than usual at this size, so that long prompts can be measured.
    "llama-110m": Shape(
        family="llama",
        hidden=768,
        layers=12,
        heads=12,
        kv_heads=12,
        head_dim=64,
        ffn=2048,
        vocab=32_000,
        tied=False,
        positions=16_384,
        theta=1e4,
        eps=1e-5,
    ),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072),
    # Nobody's model: a draft of the one above, a ninth of it, as the embedded model's
    # draft is an eighth of its target.
    "qwen3-0.6b-draft": replace(_qwen3(384, 4, 4, 1024), kv_heads=2),
    "llama-3.2-1b": Shape(
        family="llama",
        hidden=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        ffn=8192,
        vocab=128_256,
        tied=True,
        positions=131_072,
        theta=5e5,
        eps=1e-5,
        rope=Llama3Rope(factor=32.0),
    ),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728),
    "mistral-7b": Shape(  # v0.3
        family="mistral",
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        ffn=14_336,
        vocab=32_768,
        tied=False,
        positions=32_768,
        theta=1e6,
        eps=1e-5,
    ),
    "llama-3.1-8b": Shape(
        family="llama",
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        ffn=14_336,
        vocab=128_256,
        tied=False,
        positions=131_072,
        theta=5e5,
        eps=1e-5,
        rope=Llama3Rope(factor=8.0),
    ),
}
