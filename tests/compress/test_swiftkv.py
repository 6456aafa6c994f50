"""Prompts that stop half way compute what a model does whose every token goes the whole way."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from penstock.compress import corpus, forward
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.distill import Distill, distil
from penstock.compress.quantize import Quantize, floats, quantize
from penstock.compress.sparse import Sparsify, sparsify
from penstock.compress.swiftkv import SwiftKV, swiftkv
from penstock.engine.kernels.choose import choose
from penstock.engine.kernels.native import library
from penstock.engine.llm import LLM
from penstock.engine.model import loader
from penstock.engine.model.config import from_hf
from penstock.engine.options import EngineOptions
from penstock.engine.request import SamplingParams
from penstock.engine.stages import work
from penstock.engine.watch import watching
from tests.compress.conftest import FAMILIES, tokenizer
from tests.compress.test_distill import TEXT, Clock, distance
from tests.engine.model.packing import Packer, Sequence

TOLERANCE = 1e-4  # of logits in fp32, which lie some apart
DEEP = [
    ("llama", 2, 1),
    ("llama-biased", 1, 2),
    ("mistral", 3, 1),
    ("qwen2", 1, 3),
    ("qwen3", 2, 2),
]


@pytest.fixture(scope="module")
def made(family, tmp_path_factory):
    """A SwiftKV model by family, layers and group, its new weights disturbed: `made(...)`."""
    known = {}

    def make(name: str, full: int = 2, group: int = 1) -> Checkpoint:
        key = (name, full, group)
        if key not in known:
            directory = tmp_path_factory.mktemp("swiftkv") / "model"
            found = converted(Checkpoint.read(family(name)), full, group).checkpoint
            torch.manual_seed(4)
            tensors = {
                key: t + 0.1 * torch.randn(t.shape, dtype=t.dtype) if "swiftkv" in key else t
                for key, t in found.tensors.items()
            }
            replace(found, tensors=tensors).write(directory, {})
            known[key] = replace(Checkpoint.read(directory), source=directory)
        return known[key]

    return make


def converted(checkpoint: Checkpoint, full: float, group: int = 1):
    from penstock.compress.desk import Desk

    return swiftkv(checkpoint, SwiftKV(full=full, group=group), Desk(rows(), None))  # type: ignore[arg-type]


def rows() -> torch.Tensor:
    return torch.randint(0, 256, (2, 33), generator=torch.Generator().manual_seed(3))


def hooked(name: str, made: Checkpoint) -> torch.nn.Module:
    """transformers' model of the family, whose deep layers are given the one input by hooks."""
    kind, config = FAMILIES[name]
    model = kind(config).eval()
    tensors = made.floats()
    shared = tensors.pop("model.norm_swiftkv.weight")
    shapes = made.shape.layers
    for index in range(made.shape.full_layers, len(shapes)):
        first = index if shapes[index].shares_kv is None else shapes[index].shares_kv
        for kind_ in ("q_proj", "k_proj", "v_proj", "k_norm"):
            own = index if kind_ == "q_proj" else first
            for end in ("weight", "bias"):
                deep = "" if kind_ == "k_norm" else "_swiftkv"
                source = made.tensors.get(f"model.layers.{own}.self_attn.{kind_}{deep}.{end}")
                if source is not None:
                    tensors[f"model.layers.{index}.self_attn.{kind_}.{end}"] = source.float()
    tensors = {key: tensor for key, tensor in tensors.items() if "_swiftkv" not in key}
    lacking, unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown
    assert set(lacking) <= {"lm_head.weight"}
    seen = {}
    full = made.shape.full_layers

    def entered(_, inputs, options):
        x = inputs[0] if inputs else options["hidden_states"]
        seen["h"] = torch.nn.functional.rms_norm(x, shared.shape, shared, made.shape.norm_eps)

    model.model.layers[full].register_forward_pre_hook(entered, with_kwargs=True)
    for layer in model.model.layers[full:]:
        for matrix in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            matrix.register_forward_pre_hook(lambda *_: (seen["h"],))
    return model


@pytest.mark.parametrize(("name", "full", "group"), DEEP)
def test_the_slow_form_is_transformers_with_the_one_input(made, name, full, group):
    model = made(name, full, group)
    tokens = torch.randint(0, 256, (2, 40))
    with torch.no_grad():
        wanted = hooked(name, model)(input_ids=tokens).logits
        ours = forward.forward(model.shape, model.floats(), tokens)
    assert wanted.std() > 0.5
    torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "full", "group"), DEEP)
def test_the_engines_rows_are_those_of_the_slow_form(made, name, full, group, seed):
    """Sequences of random lengths in random chunks and company, some rows wanted of each step."""
    model, rng = made(name, full, group), random.Random(seed)
    decoder = loader.load(model.source, torch.float32, "cpu")[1]
    packer = Packer(decoder, page_size=rng.choice([4, 7, 16]))
    texts = [[rng.randrange(256) for _ in range(rng.randrange(5, 90))] for _ in range(5)]
    with torch.no_grad():
        weights = model.floats()
        wanted = [forward.forward(model.shape, weights, torch.tensor([t]))[0] for t in texts]
    sequences = [Sequence(text) for text in texts]
    checked = 0
    while left := [s for s in sequences if s.computed < len(s.tokens)]:
        some = rng.sample(left, rng.randrange(1, len(left) + 1))
        decodes = [s for s in some if s.computed and rng.random() < 0.5]
        chunks = [
            (s, rng.randrange(1, len(s.tokens) - s.computed + 1)) for s in some if s not in decodes
        ]
        batch = packer.pack(decodes, *chunks)
        last = [s.computed + n - 1 for s, n in [*((s, 1) for s in decodes), *chunks]]
        owners = [s for s, n in [*((s, 1) for s in decodes), *chunks] for _ in range(n)]
        # A decode's row is always wanted; of a chunk none, the last, or any.
        some_rows = [r for r in range(len(owners)) if r < len(decodes) or rng.random() < 0.3]
        batch = dataclasses.replace(batch, logit_rows=torch.tensor(some_rows, dtype=torch.int64))
        with torch.inference_mode():
            logits = decoder.forward(batch, packer.kv)
        for row, found in zip(some_rows, logits, strict=True):
            index = next(i for i, s in enumerate(sequences) if s is owners[row])
            expected = wanted[index][batch.positions[row]]
            assert (found - expected).abs().max() < TOLERANCE
            checked += 1
        for (s, n), end in zip([*((s, 1) for s in decodes), *chunks], last, strict=True):
            s.computed += n
            assert s.computed == end + 1
    assert checked > 20


def test_layers_that_share_keep_one_k_and_v(made):
    config = made("qwen2", 1, 3).shape
    assert [layer.shares_kv for layer in config.layers] == [None, None, 1, 1]
    assert [layer.deep for layer in config.layers] == [False, True, True, True]
    decoder = loader.load(made("qwen2", 1, 3).source, torch.float32, "cpu")[1]
    each = 2 * config.layers[0].kv_heads * config.layers[0].head_dim * 4
    assert Packer(decoder).kv.bytes_per_token == 2 * each


def test_untrained_the_first_deep_layer_is_as_it_was(family):
    """K and V of layer n are made of x_n anyway: what changes begins behind it."""
    whole = Checkpoint.read(family("qwen3"))
    tokens = rows()
    with torch.no_grad():
        before = forward.forward(whole.shape, whole.floats(), tokens)
        last, half = (converted(whole, full).checkpoint for full in (3, 2))
        one, two = (forward.forward(each.shape, each.floats(), tokens) for each in (last, half))
    # Rounded to bf16 once more, W' = W diag(w) is not quite what it stands for.
    assert (one - before).std() < 0.02 * before.std() < (two - before).std()


def test_what_is_told_of_the_conversion(llama):
    found = converted(llama, 0.5)
    apart = found.details["K and V made of the one input"]
    assert [row["layer"] for row in apart] == [2, 3]
    assert apart[0]["apart"] == 0 < 0.05 < apart[1]["apart"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"full": 4}, "swiftkv=4 must be a number of layers from 1 to 3"),
        ({"full": 0.1}, "swiftkv=0.1 must be"),
        ({"full": 1.5}, "swiftkv=1.5 must be"),
        ({"full": float("inf")}, "swiftkv=inf must be"),
        ({"full": float("-inf")}, "swiftkv=-inf must be"),
        ({"full": float("nan")}, "swiftkv=nan must be"),
        ({"full": 2, "group": 0}, "swiftkv_group=0"),
    ],
)
def test_what_cannot_be_is_refused(llama, desk, changed, said):
    with pytest.raises(ValueError, match=said):
        swiftkv(llama, SwiftKV(**changed), desk)


def test_what_looks_at_single_layers_comes_before(made, desk):
    model = made("llama")
    with pytest.raises(ValueError, match="comes before --swiftkv"):
        sparsify(model, Sparsify(share=0.5), desk)
    with pytest.raises(ValueError, match="is a SwiftKV model already"):
        swiftkv(model, SwiftKV(full=1), desk)


@pytest.mark.parametrize("how", [Quantize(bits=4, method="awq", group=32), Quantize(bits=8)])
@pytest.mark.parametrize(("name", "full", "group"), [("llama", 2, 1), ("qwen3", 1, 2)])
def test_rounded_to_integers_it_says_what_they_mean(made, desk, tmp_path, how, name, full, group):
    result = quantize(made(name, full, group), how, desk).checkpoint
    result.write(tmp_path / "x", {})
    meant = {n: t.float() for n, t in result.tensors.items() if not n.startswith("model.layers.")}
    for index in range(len(result.shape.layers)):
        own = floats(result.layer(index), how.bits)
        meant |= {f"model.layers.{index}.{n}": tensor for n, tensor in own.items()}
    tokens = torch.randint(0, 256, (1, 30))
    with torch.no_grad():
        wanted = forward.forward(result.shape, meant, tokens)[0]
    decoder = loader.load(tmp_path / "x", torch.float32, "cpu")[1]
    assert (Packer(decoder).prefill(tokens[0].tolist(), 12, 18) - wanted).abs().max() < 1e-3
    assert LLM(str(tmp_path / "x")).generate([[1, 2, 3]])[0].token_ids


def test_other_loaders_refuse_it(made):
    with pytest.raises(ValueError, match="llama_swiftkv"):
        AutoConfig.from_pretrained(made("llama").source)
    config = json.loads((made("llama").source / "config.json").read_text())
    for full, said in ((0, "num_key_value_layers=0"), (4, "from|between"), (None, "has no num")):
        with pytest.raises(ValueError, match=said):
            from_hf({**config, "num_key_value_layers": full})
    with pytest.raises(ValueError, match="key_value_group_size=0"):
        from_hf({**config, "key_value_group_size": 0})


def test_a_light_distillation_trains_only_what_is_new(llama, desk, monkeypatch):
    monkeypatch.setattr(corpus, "training_texts", lambda: {"library": [40 * TEXT], "tests": []})
    student = converted(llama, 2).checkpoint
    how = Distill(minutes=4, teacher="it", length=32, rows=4, peak=2e-3, light=True)
    taught = distil(student, llama, how, desk, Clock()).checkpoint
    changed = {n for n, t in taught.tensors.items() if not torch.equal(t, student.tensors[n])}
    assert changed == {
        f"model.layers.{index}.self_attn.{name}_proj_swiftkv.weight"
        for index in (2, 3)
        for name in "qkv"
    }
    assert distance(taught, llama) < 0.95 * distance(student, llama)
    again = distil(student, llama, how, desk, Clock()).checkpoint  # from what is kept
    for name, tensor in taught.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    with pytest.raises(ValueError, match="light=true"):
        distil(llama, llama, how, replace(desk))


def test_what_a_step_costs_is_told_of_it(made):
    """The facts, from which ceilings are made, and the stages that explain shows agree."""
    llm = LLM(str(made("qwen3", 1, 2).source))
    about, decoder = llm.engine.facts, llm.engine.decoder
    prompt = work(decoder, 30, 30)
    each, attended = about.flops_per_token - about.head_flops, 30 * 31 // 2
    deep = about.attention_flops - about.prompt_attention_flops
    assert sum(stage.flops for stage in prompt.values()) == (
        30 * each + about.head_flops + attended * about.prompt_attention_flops + 30 * deep
    )
    decode = work(decoder, 1, 31)
    assert sum(stage.flops for stage in decode.values()) == (
        about.flops_per_token + 31 * about.attention_flops
    )
    assert about.prompt_attention_flops * 4 == about.attention_flops
    with watching(decoder) as watched:
        llm.generate([[1, 2, 3]], SamplingParams(max_tokens=1))
    assert len(watched.readings) == 2 * 4 + 3


GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.9, max_tokens=24, seed=5, ignore_eos=True)


def prompts() -> list[list[int]]:
    rng = random.Random(6)
    stem = [rng.randrange(256) for _ in range(50)]
    period = [rng.randrange(256) for _ in range(6)]
    return [[*stem, 3], period * 9, [*stem, 4, 5], [7], stem[:33] + period, period * 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_step_tokens": 24},
        {"prefix_sharing": False, "chunked_prefill": False},
        {"kv_tokens": 160, "max_step_tokens": 24},
        {"speculate": "lookup", "draft_tokens": 4},
        {"kv_cache": False},
        {"batching": "static", "fill_wait_s": 0.0},
    ],
    ids=["small chunks", "nothing shared", "preempted", "guesses", "no KV cache", "static"],
)
def test_a_text_is_that_of_the_slow_form(made, changes):
    """Preemption, prefixes and guesses are exact: K and V depend on tokens alone."""
    model = made("llama", 1, 2)
    options = {"dtype": "fp32", "threads": 1, "kv_tokens": 2048, "max_running": 6, **changes}
    llm = LLM(str(model.source), EngineOptions(**options))
    weights = model.floats()
    for _ in range(2):  # the second time on cached prefixes
        said = llm.generate(prompts(), GREEDY)
        for prompt, completion in zip(prompts(), said, strict=True):
            tokens = prompt + completion.token_ids
            with torch.no_grad():
                logits = forward.forward(model.shape, weights, torch.tensor([tokens[:-1]]))[0]
            assert logits[len(prompt) - 1 :].argmax(-1).tolist() == completion.token_ids
    stats = llm.engine.stats()
    assert (stats.preemptions > 0) == ("kv_tokens" in changes)
    assert ("speculate" in changes) == (sum(stats.guessed_right) > 0)


def native() -> bool:
    try:
        library.library()
    except library.NotHere:
        return False
    return True


NATIVE = pytest.mark.skipif(not native(), reason="native kernels do not run here")
FORMATS = [
    {},
    {"weights": "int8"},
    {"weights": "int8", "kv": "int8"},
    {"weights": "int4"},
]


@NATIVE
@pytest.mark.parametrize("formats", FORMATS, ids=["bf16", "int8", "int8 and KV int8", "int4"])
def test_native_kernels_serve_it_the_same_in_any_company(made, formats):
    model = made("qwen3", 2, 2)
    options = {"dtype": "bf16", "deterministic": True, **formats}
    alone = LLM(str(model.source), EngineOptions(prefix_sharing=False, threads=1, **options))
    params = [GREEDY, DRAWN] * 3
    texts = [alone.generate([p], [s])[0].token_ids for p, s in zip(prompts(), params, strict=True)]
    crowd = EngineOptions(
        max_step_tokens=24, kv_tokens=160, max_running=5, threads=2, speculate="lookup", **options
    )
    together = LLM(str(model.source), crowd)
    for _ in range(2):
        said = together.generate(prompts() * 2, params * 2)
        assert [completion.token_ids for completion in said] == texts * 2
    assert together.engine.stats().preemptions > 0


@NATIVE
@pytest.mark.parametrize("formats", FORMATS, ids=["bf16", "int8", "int8 and KV int8", "int4"])
def test_native_kernels_come_near_the_slow_form(made, formats):
    """As near as the format permits, and nearer to the plain ones of the same format."""
    model = made("qwen3", 2, 2)
    tokens = [random.Random(1).randrange(256) for _ in range(100)]
    with torch.no_grad():
        wanted = forward.forward(model.shape, model.floats(), torch.tensor([tokens]))[0]
    found = {}
    for kernels in ("native", "torch"):
        chosen = choose(
            model.shape,
            dtype=torch.bfloat16,
            device="cpu",
            page_size=16,
            kernels=kernels,
            **formats,
        )
        decoder = loader.load_weights(model.shape, model.source, torch.bfloat16, "cpu", chosen)
        packer = Packer(decoder)
        sequence = Sequence(tokens)
        packer.kv = type(packer.kv)(
            decoder.kv_layers(), 256, 16, torch.bfloat16, "cpu", storage=chosen.pages
        )
        steps = [packer.step([], (sequence, 60))[0], packer.step([], (sequence, 30))[0]]
        steps += [packer.step([sequence])[0] for _ in range(10)]
        found[kernels] = torch.cat(steps)
    spread = wanted.std()
    assert (found["native"] - found["torch"]).std() < 0.05 * spread
    assert (found["native"] - wanted).std() < (0.4 if "int4" in formats.values() else 0.1) * spread


def test_the_tokenizer_of_the_fixtures_is_the_models(made):
    assert LLM(str(made("llama").source)).tokenizer.encode("a b") == tokenizer().encode("a b").ids
