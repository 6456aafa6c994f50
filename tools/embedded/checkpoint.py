"""Training state on disk: tensors as safetensors, the rest as JSON."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from embedded.shapes import SHAPES


def save(
    folder: Path, model: LlamaForCausalLM, optimizer: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint; `state` names the shape and goes last, after its tensors."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    for part, tensors in {"model": parameters, "optimizer": optimizer}.items():
        save_file(tensors, folder / f"{part}.tmp")
        (folder / f"{part}.tmp").rename(folder / f"{part}.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=2))


def load(folder: Path) -> tuple[LlamaForCausalLM, dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote: model in fp32, optimizer tensors, state."""
    state = json.loads((folder / "state.json").read_text())
    model = LlamaForCausalLM(SHAPES[state["shape"]])
    # Not strict: the output matrix is the embedding and was saved once.
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model, load_file(folder / "optimizer.safetensors"), state
