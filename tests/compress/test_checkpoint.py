"""A checkpoint comes out as it went in, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from penstock.compress import checkpoint as module
from penstock.compress.checkpoint import Checkpoint
from penstock.engine.llm import LLM


@pytest.mark.parametrize("shard", [5_000_000_000, 200_000])
def test_read_and_written_it_is_the_same(family, tmp_path, monkeypatch, shard):
    monkeypatch.setattr(module, "SHARD_BYTES", shard)
    source = Checkpoint.read(family("qwen3"))
    source.write(tmp_path / "x", {"steps": []})
    again = Checkpoint.read(tmp_path / "x")
    assert again.config == source.config
    assert again.tensors.keys() == source.tensors.keys()
    assert all(torch.equal(again.tensors[name], source.tensors[name]) for name in source.tensors)
    assert (len(list((tmp_path / "x").glob("*.safetensors"))) > 1) == (shard < 1e6)
    assert json.loads((tmp_path / "x" / "compress.json").read_text()) == {"steps": []}
    assert LLM(str(tmp_path / "x")).generate([[1, 2, 3]])[0].token_ids


def test_a_directory_that_exists_is_left_alone(llama, tmp_path):
    with pytest.raises(ValueError, match=r"exists; remove it.*--out"):
        llama.write(tmp_path, {})


def test_an_interruption_leaves_nothing(llama, tmp_path, monkeypatch):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llama.write(tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []


def test_a_tied_head_is_stored_once(family, llama):
    assert "lm_head.weight" not in llama.tensors
    assert llama.parameters == sum(
        tensor.numel() for tensor in load_file(family("llama") / "model.safetensors").values()
    )
