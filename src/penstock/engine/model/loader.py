"""From a Hugging Face checkpoint on disk to a decoder in memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from penstock.engine.kernels.linear import PlainLinear, plain
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.whole import PACKED, SCALE, SHAPE, unpacked
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder, Kernels


def load(
    directory: Path, dtype: torch.dtype, device: torch.device | str, kernels: Kernels | None = None
) -> tuple[ModelConfig, Decoder]:
    """Read a model directory in HF layout: `config.json` and safetensors, sharded or not.

    Without `kernels` the decoder has PyTorch's. Raises `FileNotFoundError` or
    `ValueError` saying what is missing, has the wrong shape or cannot be honoured.
    """
    config = ModelConfig.load(directory)
    return config, load_weights(config, directory, dtype, device, kernels)


def load_weights(
    config: ModelConfig,
    directory: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    kernels: Kernels | None = None,
) -> Decoder:
    """Build the decoder of `config` and fill it from the safetensors files of `directory`.

    Each tensor is copied from the mapped file into its place, cast to `dtype`,
    and a layer is packed as soon as it and its norms are whole, matrix by matrix, so memory
    never holds the model twice.
    Raises as `load`.
    """
    decoder = Decoder(config, dtype, device, kernels)
    wanted = checkpoint_views(decoder)
    missing = Counter(_layer(name) for name in wanted)
    for name, tensor in tensors(directory):
        if (
            name.endswith("rotary_emb.inv_freq")
            or (name == "lm_head.weight" and config.tied_embeddings)
            or (name.endswith(SHAPE) and config.quantization is not None)
        ):
            continue  # what the config already says
        view = wanted.pop(name, None)
        if view is None:
            raise ValueError(f"unexpected tensor {name} in {directory}: not in this architecture.")
        if view.dtype == torch.int8 and tensor.dtype == torch.int32:
            assert config.quantization is not None
            tensor = unpacked(tensor, config.quantization.bits, view.shape[1])
        if view.shape != tensor.shape:
            raise ValueError(
                f"tensor {name} has shape {list(tensor.shape)}; config.json asks for "
                f"{list(view.shape)}."
            )
        if tensor.is_floating_point() != view.is_floating_point():
            raise ValueError(
                f"tensor {name} holds {tensor.dtype}: give a checkpoint in fp32, fp16 or bf16."
            )
        view.copy_(tensor)
        del view  # the last hold on a matrix that is packed below
        layer = _layer(name)
        missing[layer] -= 1
        if missing[layer] == 0 and layer is not None and layer < config.full_layers:
            decoder.pack_layer(layer)
    if wanted:
        names = sorted(wanted)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"{directory} lacks the tensors {', '.join(names[:5])}{more}.")
    for layer in range(config.full_layers, len(config.layers)):
        decoder.pack_layer(layer)  # with the norm that they share
    decoder.pack_tables()
    return decoder


def _layer(name: str) -> int | None:
    """The layer that a tensor of a checkpoint belongs to, if it is in one."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def checkpoint_views(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's weights under their names in an HF checkpoint.

    Fused matrices appear as views of their parts, so that copying into a view
    loads the part; integers as int8, where a checkpoint has them packed. For a
    decoder that is not packed yet.
    """
    config = decoder.config
    views = {
        "model.embed_tokens.weight": plain(decoder.embedding).weight,
        "model.norm.weight": decoder.norm.weight,
    }
    if not config.tied_embeddings:
        views["lm_head.weight"] = plain(decoder.head).weight
    if config.full_layers < len(config.layers):
        views["model.norm_swiftkv.weight"] = decoder.kv_norm.weight
    for index, layer in enumerate(decoder.layers):
        shape, prefix = layer.shape, f"model.layers.{index}"
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        parts: dict[str, Tensor | None] = {
            "input_layernorm.weight": layer.attention_norm.weight,
            "post_attention_layernorm.weight": layer.ffn_norm.weight,
            "self_attn.q_norm.weight": None if layer.q_norm is None else layer.q_norm.weight,
            "self_attn.k_norm.weight": None if layer.k_norm is None else layer.k_norm.weight,
        }
        own_kv = {"k": kv, "v": kv}
        projections = {"q": q} | (own_kv if shape.fused else {})
        kind = "_swiftkv" if shape.deep else ""
        fused = [
            (layer.qkv, {f"self_attn.{n}_proj{kind}": size for n, size in projections.items()}),
            (layer.output, {"self_attn.o_proj": config.hidden_size}),
            (layer.gate_up, {"mlp.gate_proj": shape.ffn_size, "mlp.up_proj": shape.ffn_size}),
            (layer.down, {"mlp.down_proj": config.hidden_size}),
        ]
        if layer.kv is not None:
            fused.append((layer.kv, {f"self_attn.{n}_proj{kind}": s for n, s in own_kv.items()}))
        for matrix, sizes in fused:
            for end, whole in _stored(plain(matrix)).items():
                split = torch.split(whole, list(sizes.values()))
                parts |= {f"{name}{end}": part for name, part in zip(sizes, split, strict=True)}
        views |= {f"{prefix}.{name}": part for name, part in parts.items() if part is not None}
    return views


def _stored(matrix: PlainLinear) -> dict[str, Tensor]:
    """What a checkpoint has of a matrix, by the end of its name."""
    stored = {} if matrix.bias is None else {".bias": matrix.bias}
    if matrix.whole is None:
        return stored | {".weight": matrix.weight}
    return stored | {PACKED: matrix.whole.whole, SCALE: matrix.whole.scale}


def parameters(decoder: Decoder) -> int:
    """Weights of the model; a tied embedding counts once."""
    tables = decoder.head.parameters
    if not decoder.config.tied_embeddings:
        tables += decoder.embedding.parameters
    matrices = sum(matrix.parameters for layer in decoder.layers for matrix in layer.matrices)
    return tables + matrices + sum(norm.weight.numel() for norm in _norms(decoder))


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of weights one step reads: all but the embedding table, of which it reads rows."""
    matrices = sum(matrix.nbytes for layer in decoder.layers for matrix in layer.matrices)
    return matrices + decoder.head.nbytes + sum(norm.weight.nbytes for norm in _norms(decoder))


def flops_per_token(decoder: Decoder) -> int:
    """2 x weights multiplied for a token whose logits are wanted, attention apart."""
    matrices = [matrix for layer in decoder.layers for matrix in layer.matrices]
    return 2 * sum(matrix.outputs * matrix.inputs for matrix in [*matrices, decoder.head])


def last_flops(decoder: Decoder) -> int:
    """Those of `flops_per_token` that only a token whose logits are wanted takes."""
    *_, last = decoder.layers
    matrices = [last.output, last.gate_up, last.down, decoder.head]
    if deep := decoder.layers[decoder.config.full_layers :]:
        matrices = [matrix for layer in deep for matrix in layer.matrices if matrix is not layer.kv]
        matrices.append(decoder.head)
    return 2 * sum(matrix.outputs * matrix.inputs for matrix in matrices)


def _norms(decoder: Decoder) -> Iterator[RMSNorm]:
    yield decoder.norm
    if decoder.config.full_layers < len(decoder.layers):
        yield decoder.kv_norm
    for layer in decoder.layers:
        yield from layer.norms


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        files = [directory / shard for shard in shards]
        if missing := [file.name for file in files if not file.is_file()]:
            raise FileNotFoundError(f"{index} names {', '.join(missing)}, not in the directory.")
        return files
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    if pickled := sorted(p.name for s in ("bin", "pt", "pth") for p in directory.glob(f"*.{s}")):
        raise ValueError(
            f"{directory} holds {pickled[0]}: pickled weights can run code when read and are "
            "refused. Convert them to safetensors with save_pretrained(safe_serialization=True)."
        )
    raise FileNotFoundError(f"{directory} holds no model.safetensors and no index of shards.")


def tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint's files by its name, as it is stored. Raises as `load`."""
    for file in _files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{file} is not whole: {error}. Download it again.") from error
