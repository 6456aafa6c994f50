"""Checkpoints of random weights: anything loads them, and none is left half written."""

import json
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from typer.testing import CliRunner

from penstock import models
from penstock.cli import app
from penstock.cli.targets import Asking, opening
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.meter.bench import Options, Progress, bench
from penstock.meter.local import served
from penstock.models import synthetic
from penstock.models.shapes import SHAPES
from penstock.models.vocabulary import tokenizer

TINY = {
    name: replace(
        SHAPES[name], hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=300
    )
    for name in ("llama-110m", "llama-3.2-1b", "mistral-7b", "qwen3-0.6b")
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "penstock" / "models"


@pytest.mark.parametrize("name", TINY)
def test_transformers_and_our_engine_agree_on_it(name, tmp_path):
    synthetic.make(TINY[name], tmp_path / "x", shard_bytes=40_000)
    assert len(list((tmp_path / "x").glob("*.safetensors"))) > 1
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "x", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in theirs.parameters()) == TINY[name].parameters
    assert theirs.config.max_position_embeddings == SHAPES[name].positions
    prompt = list(range(1, 40))
    reference = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
    engine = Engine.load(str(tmp_path / "x"), EngineOptions(dtype="fp32"))
    params = SamplingParams(max_tokens=8, temperature=0.0)
    engine.submit(GenerateRequest(id="a", prompt=prompt, params=params))
    said = []
    while engine.has_work:
        for delta in engine.step():
            said += delta.token_ids
    assert [*prompt, *said] == reference[0].tolist()


def test_weights_are_normal_norms_one_and_the_same_again(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synthetic.make(TINY["qwen3-0.6b"], tmp_path / name, seed=seed)
    read = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    with safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as weights:
        table = weights.get_tensor("model.embed_tokens.weight")
        norm = weights.get_tensor("model.layers.1.self_attn.k_norm.weight")
        other = weights.get_tensor("model.layers.1.mlp.up_proj.weight")
    assert table.dtype == torch.bfloat16
    assert table.float().std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(table.float().mean().item()) < 0.001
    assert norm.eq(1).all()
    assert not torch.equal(table[:96], other)


def test_bf16_is_rounded_as_torch_does(tmp_path):
    for dtype in ("fp32", "bf16"):
        synthetic.make(TINY["llama-110m"], tmp_path / dtype, dtype=dtype)
    with (
        safe_open(tmp_path / "fp32" / "model.safetensors", framework="pt") as wide,
        safe_open(tmp_path / "bf16" / "model.safetensors", framework="pt") as narrow,
    ):
        for name in wide.keys():  # noqa: SIM118
            assert torch.equal(wide.get_tensor(name).bfloat16(), narrow.get_tensor(name))


@pytest.mark.parametrize("size", [257, 300, 4096, 5000, 151_936])
def test_every_token_decodes_and_every_text_is_encoded(size):
    content, _ = tokenizer(size)
    ours = Tokenizer.from_str(json.dumps(content))
    assert ours.get_vocab_size() == size
    texts = [ours.decode([id_], skip_special_tokens=False) for id_ in range(size)]
    assert all(texts)
    assert len(set(texts[4096:])) == max(0, size - 4096)
    for text in ("def f(x): return x", "naïve — 漢字 🙂"):
        ids = ours.encode(text).ids
        assert ours.decode(ids) == text
        assert max(ids) < min(size, 4096)


def test_a_vocabulary_that_cannot_spell_is_refused():
    with pytest.raises(ValueError, match="vocab=256 cannot spell every byte; 257 is the least"):
        tokenizer(256)


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the publishers say
        ("qwen3-0.6b", 596),
        ("qwen3-1.7b", 1721),
        ("qwen3-4b", 4022),
        ("llama-3.2-1b", 1236),
        ("llama-3.1-8b", 8030),
        ("mistral-7b", 7248),
        ("llama-110m", 134),
    ],
)
def test_shapes_have_the_size_of_their_models(name, millions):
    assert round(SHAPES[name].parameters / 1e6) == millions


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.make(TINY["llama-110m"], tmp_path / "x", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_size_of_the_weights(tmp_path):
    seen = []
    synthetic.make(TINY["mistral-7b"], tmp_path / "x", progress=lambda *at: seen.append(at))
    assert seen[-1] == (2 * TINY["mistral-7b"].parameters,) * 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_directory_that_exists_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"exists; remove it.*--out"):
        synthetic.make(TINY["llama-110m"], tmp_path)
    disk = synthetic.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(synthetic.shutil, "disk_usage", lambda _: disk)
    with pytest.raises(OSError, match=r"takes 16\.1 GB .* 0\.0 GB free"):
        synthetic.make(SHAPES["llama-3.1-8b"], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_made_by_name_it_is_found_by_name(home, monkeypatch):
    with pytest.raises(ValueError, match="run `penstock models make llama-110m`"):
        models.path("llama-110m")
    monkeypatch.setitem(SHAPES, "llama-110m", TINY["llama-110m"])
    done = CliRunner().invoke(app, ["models", "make", "llama-110m"])
    assert done.exit_code == 0, done.output
    assert models.path("llama-110m") == home / "llama-110m"
    assert models.is_synthetic(home / "llama-110m")
    again = CliRunner().invoke(app, ["models", "make", "llama-110m"])
    assert again.exit_code == 1
    assert "exists; remove it" in " ".join(again.output.split())


def test_another_vocabulary_needs_another_place(tmp_path):
    refused = CliRunner().invoke(app, ["models", "make", "llama-110m", "--vocab", "300"])
    assert refused.exit_code == 2
    assert "give --out" in refused.output
    unknown = CliRunner().invoke(app, ["models", "make", "gpt-9"])
    assert unknown.exit_code == 2
    assert "qwen3-0.6b" in unknown.output


def test_the_list_has_all_and_says_how_to_get_them(home):
    for arguments in (["models"], ["models", "list"]):
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        for name in (*models.SHIPPED, *SHAPES):
            assert name in done.output
        assert "penstock models make NAME" in done.output
        assert str(home) in done.output
        assert "7.3 M" in done.output


def test_the_shipped_models_are_not_synthetic(tmp_path):
    assert not any(models.is_synthetic(models.path(name)) for name in models.SHIPPED)
    assert not models.is_synthetic(tmp_path)


@pytest.mark.parametrize("served_", [False, True], ids=["in this process", "served"])
async def test_quality_is_refused_where_weights_are_random(tmp_path, served_):
    synthetic.make(replace(TINY["llama-110m"], positions=256), tmp_path / "x")
    name = str(tmp_path / "x")
    async with AsyncExitStack() as stack:
        target = f"engine:{name}"
        if served_:
            target = await stack.enter_async_context(served([name, "--port", "0"]))
        opened = await stack.enter_async_context(opening(target, Asking(), None))
        with pytest.raises(ValueError, match="has random weights.*Leave --tasks out"):
            await bench(opened, Options(tasks="doctests"), None, Progress())
