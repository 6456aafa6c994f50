"""Checkpoints load as they are, or say what is wrong with them."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.engine.model import loader
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder


@pytest.fixture
def changed(checkpoint, tmp_path):
    """A copy of the Llama 2 checkpoint with its tensors changed by a function."""

    def change(edit) -> None:
        source = checkpoint("llama-2").directory
        shutil.copy(source / "config.json", tmp_path)
        tensors = load_file(source / "model.safetensors")
        edit(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        loader.load(tmp_path, torch.float32, "cpu")

    return change


def test_missing_tensors_are_named(changed):
    with pytest.raises(ValueError, match=r"lacks the tensors model\.layers\.1\.mlp\.up_proj"):
        changed(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def test_unexpected_tensors_are_named(changed):
    with pytest.raises(ValueError, match=r"unexpected tensor model\.extra"):
        changed(lambda tensors: tensors.update({"model.extra": torch.ones(2)}))


def test_wrong_shapes_are_named(changed):
    with pytest.raises(ValueError, match=r"k_proj\.weight has shape \[3, 64\].*\[64, 64\]"):
        changed(
            lambda tensors: tensors.update(
                {"model.layers.0.self_attn.k_proj.weight": torch.ones(3, 64)}
            )
        )


def test_integer_weights_are_refused(changed):
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds torch\.int8"):
        changed(
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})
        )


def test_buffers_that_older_checkpoints_saved_are_passed_over(changed):
    changed(
        lambda tensors: tensors.update(
            {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
        )
    )


def test_pickled_weights_are_refused(checkpoint, tmp_path):
    shutil.copy(checkpoint("llama-2").directory / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*safetensors"):
        loader.load(tmp_path, torch.float32, "cpu")


def test_cut_off_files_are_named(checkpoint, tmp_path):
    source = checkpoint("llama-2").directory
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is not whole"):
        loader.load(tmp_path, torch.float32, "cpu")


def test_missing_shards_are_named(checkpoint, tmp_path):
    source = checkpoint("qwen3").directory
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        loader.load(tmp_path, torch.float32, "cpu")


def test_directory_without_weights(checkpoint, tmp_path):
    shutil.copy(checkpoint("llama-2").directory / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        loader.load(tmp_path, torch.float32, "cpu")


@pytest.mark.parametrize("family", ["llama-2", "llama-3", "llama-biased", "qwen3"])
def test_counts(checkpoint, family):
    saved = checkpoint(family)
    decoder, reference = saved.load(torch.bfloat16), saved.reference
    assert loader.parameters(decoder) == reference.num_parameters()
    tied = reference.config.tie_word_embeddings
    table = reference.get_input_embeddings().weight.numel()
    read = reference.num_parameters() - (0 if tied else table)
    assert loader.weight_bytes(decoder) == 2 * read
    multiplied = sum(
        module.weight.numel()
        for module in reference.modules()
        if isinstance(module, torch.nn.Linear)
    )
    assert loader.flops_per_token(decoder) == 2 * multiplied


def test_counts_need_no_memory(checkpoint):
    """A decoder on the meta device has the same sizes and holds nothing."""
    saved = checkpoint("qwen3")
    config = ModelConfig.load(saved.directory)
    shadow = Decoder(config, torch.float32, "meta")
    assert shadow.device.type == "meta"
    assert loader.parameters(shadow) == saved.reference.num_parameters()
