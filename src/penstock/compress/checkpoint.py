"""A checkpoint in Hugging Face layout, read whole and written whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from penstock.engine.model import loader
from penstock.engine.model.config import ModelConfig, from_hf

SHARD_BYTES = 5_000_000_000
_OTHERS = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
_OURS = ("config.json", "compress.json", "model.safetensors.index.json")  # written anew

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A model: its `config.json`, its tensors by name, and the directory it was read from.

    From `source` a written checkpoint takes what goes with any weights: the
    tokenizer, the generation config, the licence.
    """

    config: dict[str, Any]
    tensors: Weights
    source: Path

    @staticmethod
    def read(directory: Path) -> Checkpoint:
        """Read a model directory.

        Raises as `loader.load`, and `ValueError` for one whose weights are quantized:
        what was rounded away does not come back.
        """
        config = ModelConfig.load(directory)  # says what is wrong with it
        if config.quantization is not None:
            raise ValueError(
                f"{directory} holds {config.quantization.form} weights; compress the checkpoint "
                "that they were made from."
            )
        skipped = {"lm_head.weight"} if config.tied_embeddings else set[str]()
        tensors = {
            name: tensor
            for name, tensor in loader.tensors(directory)
            if name not in skipped and not name.endswith("rotary_emb.inv_freq")
        }
        content = msgspec.json.decode((directory / "config.json").read_bytes())
        return Checkpoint(content, tensors, directory)

    @property
    def shape(self) -> ModelConfig:
        """What the config says, in the engine's words."""
        generation = self.source / "generation_config.json"
        return from_hf(
            self.config,
            msgspec.json.decode(generation.read_bytes()) if generation.is_file() else {},
        )

    @property
    def dtype(self) -> torch.dtype:
        """The precision the weights are kept in, that of the embedding."""
        return self.tensors["model.embed_tokens.weight"].dtype

    @property
    def parameters(self) -> int:
        """Weights; a tied embedding counts once, one that was pruned to zero counts."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def floats(self) -> Weights:
        """A copy of the weights in fp32, for `forward`."""
        return {name: tensor.to(torch.float32, copy=True) for name, tensor in self.tensors.items()}

    def layer(self, index: int) -> Weights:
        """The tensors of one layer, named from within it: `mlp.up_proj.weight`."""
        prefix = f"model.layers.{index}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def having(self, tensors: Weights, **config: Any) -> Checkpoint:
        """The same model with these tensors, floats in its precision, and config entries."""
        rounded = {
            name: tensor.detach().to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
        return replace(self, config={**self.config, **config}, tensors=rounded)

    def write(self, directory: Path, made: dict[str, Any]) -> None:
        """Write it, with how it was `made` as `compress.json`.

        The directory appears when it is whole. Raises `ValueError` if it exists,
        `OSError` if there is no room.
        """
        if directory.exists():
            raise ValueError(f"{directory} exists; remove it, or choose another with --out.")
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            unfinished.chmod(0o755)  # mkdtemp's is for this user alone
            others = {file for pattern in _OTHERS for file in self.source.glob(pattern)}
            for file in others:
                if file.name not in _OURS:
                    shutil.copyfile(file, unfinished / file.name)
            for name, content in (("config.json", self.config), ("compress.json", made)):
                (unfinished / name).write_text(json.dumps(content, indent=2) + "\n")
            self._write_tensors(unfinished)
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished)
            raise

    def _write_tensors(self, directory: Path) -> None:
        """`model.safetensors`, or shards and their index."""
        shards: list[Weights] = [{}]
        size = 0
        for name, tensor in self.tensors.items():
            if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
                shards.append({})
                size = 0
            shards[-1][name] = tensor.contiguous()
            size += tensor.nbytes
        where: dict[str, str] = {}
        for number, tensors in enumerate(shards, 1):
            file = "model.safetensors"
            if len(shards) > 1:
                file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            save_file(tensors, directory / file, metadata={"format": "pt"})
            (directory / file).chmod(0o644)  # written for its owner alone
            where |= dict.fromkeys(tensors, file)
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in self.tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": where}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
