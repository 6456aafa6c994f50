"""What a model's sizes mean: its weights, and the bytes and operations of a step."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from penstock.models.shapes import SHAPES
from penstock.predict import hf
from penstock.predict.layers import Dense, Gqa, Layers, Linear, Mla, Moe

__all__ = ["Architecture", "Dense", "Gqa", "Layers", "Linear", "Mla", "Moe", "architecture"]

# Bytes of one value, with the scales that blocks of it share: NVFP4 has 8 bits
# for 16 values, MXFP4 8 for 32, the usual int4 about 20 for 128.
BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5625,
    "mxfp4": 0.53125,
    "int4": 0.52,
}
_FOUR_BITS = frozenset({"fp4", "mxfp4", "int4"})
_ACTIVATION_BYTES = 2  # activations travel between devices in 16 bits
# What a hub's name may end in that changes no size.
_SUFFIX = re.compile(
    r"-(instruct|chat|it|base|hf|thinking|tput|preview|dynamic|kv|quantized|turbo|versatile|instant"
    r"|awq|gptq|bf16|fp16|fp8|fp4|nvfp4|mxfp4|int4|int8|w4a16|w8a8|v[0-9.]+|[0-9]{4}|[0-9]{6,8})$"
)
# What a hub's name says of the weights' format.
_FORMAT_WORDS = {
    **{word: word for word in ("bf16", "fp8", "fp4", "mxfp4", "int4", "int8")},
    **{"nvfp4": "fp4", "awq": "int4", "gptq": "int4", "w4a16": "int4", "w8a8": "int8"},
}


class Architecture(msgspec.Struct, frozen=True, dict=True):
    """A decoder's sizes; `positions` is its longest context in tokens.

    `weights` is the format that its weights are published in.
    """

    name: str
    hidden: int
    vocab: int
    tied: bool
    layers: tuple[Layers, ...]
    positions: int
    weights: str = "bf16"

    @cached_property
    def depth(self) -> int:
        """Number of layers."""
        return sum(layer.count for layer in self.layers)

    @cached_property
    def is_moe(self) -> bool:
        """Whether some layer has experts."""
        return any(isinstance(layer.ffn, Moe) for layer in self.layers)

    @cached_property
    def parameters(self) -> int:
        """All weights; a tied embedding counts once."""
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return tables + self._norms + self._attention + round(self._ffn(None))

    @cached_property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied by: its experts and the head.

        The embedding is a table that is looked up, so it is not among them
        (some publishers count it, some do not).
        """
        return self.vocab * self.hidden + self._norms + self._attention + round(self._ffn(1))

    def weight_bytes(self, precision: str) -> float:
        """Bytes of all weights.

        Embedding, head and norms stay in 16 bits, as is the custom; so does
        the attention of a mixture of experts whose weights have 4 bits
        (gpt-oss, DeepSeek-R1-NVFP4 and Kimi K2 ship so). Raises `ValueError`
        for an unknown precision.
        """
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return self._bytes(tables, self._ffn(None), precision)

    def read_bytes(self, tokens: float, precision: str) -> float:
        """Bytes of weights that one step over so many tokens reads.

        All but the experts that no token takes (in expectation), and of the
        embedding only the tokens' rows. Raises `ValueError` as `weight_bytes`.
        """
        tables = self.vocab * self.hidden + (0 if self.tied else tokens * self.hidden)
        return self._bytes(tables, self._ffn(tokens), precision)

    def kv_bytes(self, context: float, precision: str, tp: int = 1) -> float:
        """Bytes kept of one sequence of so many tokens, on each of `tp` devices that share it.

        Windows are respected; K and V of heads that cannot be cut further,
        and MLA's, are kept by several. The state of linear attention is
        among them, in fp32. Raises `ValueError` for an unknown precision.
        """
        width = width_of(precision, "kv")
        return sum(
            layer.count * layer.attention.kept(context, width) / layer.attention.shards(tp)
            for layer in self.layers
        )

    def kv_read_bytes(self, context: float, precision: str, tp: int = 1) -> float:
        """Bytes that one more token of a sequence reads on each of `tp` devices.

        Less than is kept only where attention is sparse (`Mla.top`).
        """
        width = width_of(precision, "kv")
        return sum(
            layer.count * layer.attention.read(context, width) / layer.attention.shards(tp)
            for layer in self.layers
        )

    def kv_bytes_per_token(self, precision: str, tp: int = 1) -> float:
        """Bytes that one more token adds to a long context, on each of `tp` devices."""
        width = width_of(precision, "kv")
        return sum(
            layer.count * layer.attention.grown(width) / layer.attention.shards(tp)
            for layer in self.layers
        )

    def matmul_flops(self, tokens: float, logits: float) -> float:
        """Operations on weights in a step over so many tokens, of which `logits` reach the head.

        A multiply and an add for each weight a token takes part in.
        """
        body = self.active_parameters - self.vocab * self.hidden - self._norms
        return 2 * body * tokens + 2 * self.vocab * self.hidden * logits

    def attention_flops(self, pairs: float, *, expanded: bool = False) -> float:
        """Operations of attention over so many (token, token it sees) pairs.

        As if every layer saw them all: `attended_flops` respects windows. MLA
        is reckoned in the absorbed form of decoding, or with `expanded` in
        that of prefill, where keys and values of each head are unpacked.
        """
        return pairs * sum(
            layer.count * layer.attention.flops_per_pair(expanded) for layer in self.layers
        )

    def attended_flops(self, context: float, *, expanded: bool = False) -> float:
        """Operations of attention of one token after so many, windows and choice respected."""
        return sum(
            layer.count * layer.attention.seen(context) * layer.attention.flops_per_pair(expanded)
            for layer in self.layers
        )

    def allreduce_bytes(self, tokens: float) -> float:
        """Bytes of the activations that one step sums over the devices of a tensor-parallel group.

        Twice a layer, after attention and after the feed-forward, in 16 bits.
        """
        return 2 * self.depth * self.tensor_bytes(tokens)

    def tensor_bytes(self, tokens: float) -> float:
        """Bytes of one layer's activations, as a pipeline's stages hand them on."""
        return tokens * self.hidden * _ACTIVATION_BYTES

    @cached_property
    def _norms(self) -> int:
        return self.hidden * (2 * self.depth + 1)

    @cached_property
    def _attention(self) -> int:
        return sum(layer.count * layer.attention.parameters(self.hidden) for layer in self.layers)

    def _ffn(self, tokens: float | None) -> float:
        """Weights of the feed-forward that a step over `tokens` reads; None for all."""
        if tokens is None:
            return sum(layer.count * layer.ffn.parameters(self.hidden) for layer in self.layers)
        return sum(layer.count * layer.ffn.touched(self.hidden, tokens) for layer in self.layers)

    def _bytes(self, tables: float, ffn: float, precision: str) -> float:
        width = width_of(precision, "weights")
        plain = max(width, 2.0)
        attention = plain if precision in _FOUR_BITS and self.is_moe else width
        return plain * (tables + self._norms) + attention * self._attention + width * ffn


def width_of(precision: str, field: str) -> float:
    """Bytes of one value held so. Raises `ValueError` that names `field`."""
    if precision not in BYTES:
        raise ValueError(f"{field}={precision!r} is no format known here; take {', '.join(BYTES)}.")
    return BYTES[precision]


def architecture(name: str) -> Architecture:
    """A model by name (`llama-3.1-8b`), by hub id (`meta-llama/Llama-3.1-8B-Instruct`), or by path.

    A path is a `config.json` of Hugging Face, or the folder of one. Raises
    `ValueError` naming the known models, or the field that cannot be used.
    """
    path = Path(name)
    if path.is_dir() or path.suffix == ".json":
        return _read(path / "config.json" if path.is_dir() else path)
    wanted = plain_name(name)
    if wanted not in shapes():
        near = difflib.get_close_matches(wanted, shapes(), 1)
        raise ValueError(
            f"model {name!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
            f"Known are {', '.join(sorted(shapes()))}; or give the folder of its config.json."
        )
    found = from_config(shapes()[wanted], wanted)
    named = (_FORMAT_WORDS.get(word) for word in re.split(r"[-_/]", name.lower()))
    return msgspec.structs.replace(found, weights=next(filter(None, named), found.weights))


def from_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The architecture a Hugging Face config describes. Raises `ValueError` naming the field."""
    parsed = hf.parse(config)
    return Architecture(
        name=name,
        hidden=parsed.need("hidden_size"),
        vocab=parsed.need("vocab_size"),
        tied=bool(parsed.tie_word_embeddings),
        layers=hf.layers(parsed),
        positions=parsed.need("max_position_embeddings"),
        weights=parsed.quantization_config.format if parsed.quantization_config else "bf16",
    )


@cache
def shapes() -> Mapping[str, Mapping[str, Any]]:
    """The bundled models: the fields of each one's `config.json` that matter here, by name."""
    text = files("penstock.predict").joinpath("data", "models.toml").read_text(encoding="utf-8")
    bundled = {name: shape.config("bfloat16") for name, shape in SHAPES.items()}
    bundled |= tomllib.loads(text)
    also = {other: name for name, table in bundled.items() for other in table.get("also", ())}
    return bundled | {other: bundled[name] for other, name in also.items()}


def plain_name(name: str) -> str:
    """A hub id without its owner and without what changes no size: tuning, date and format."""
    words = name.lower().rsplit("/", 1)[-1].replace("_", "-").removeprefix("meta-")
    while (shorter := _SUFFIX.sub("", words)) != words and words not in shapes():
        words = shorter
    return words


def _read(path: Path) -> Architecture:
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no config.json: {error}.") from None
    try:
        return from_config(config, path.resolve().parent.name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
