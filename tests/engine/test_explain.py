"""What `explain` tells is what the engine does, and its times are those of the engine's steps."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec
import pytest
import torch

from penstock import models
from penstock.engine.engine import Engine
from penstock.engine.explain import Explanation, Settings, explain, piece
from penstock.engine.kernels.choose import choose
from penstock.engine.kv import KVStore
from penstock.engine.llm import LLM
from penstock.engine.model import loader
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, GenerateRequest, SamplingParams
from penstock.engine.stages import step, work
from penstock.engine.watch import Key, Timed, timed_step, watching

PROMPT = "def area(width, height):  # π 🎉\n    return"
SETTINGS = Settings(tokens=6, temperature=0.8, top_k=7, top_p=0.6, beams=3, seed=11)


@pytest.fixture(scope="module")
def told() -> Explanation:
    return explain(PROMPT, "embedded", SETTINGS)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("embedded")


@pytest.fixture
def engine() -> Engine:
    return Engine.load("embedded", EngineOptions(prefix_sharing=False))


def logits_after(ids: list[int]) -> torch.Tensor:
    """The logits after a prompt, from a decoder of our own and no engine around it."""
    directory = models.path("embedded")
    config = ModelConfig.load(directory)
    kernels = choose(config, dtype=torch.bfloat16, device="cpu", page_size=16)
    decoder = loader.load_weights(config, directory, torch.bfloat16, "cpu", kernels)
    count = len(ids)
    pages = -(-count // 16)
    kv = KVStore(decoder.kv_layers(), pages, 16, torch.bfloat16, "cpu", storage=kernels.pages)
    none = torch.empty(0, dtype=torch.int64)
    batch = StepBatch(
        tokens=torch.tensor(ids),
        positions=torch.arange(count),
        slots=torch.arange(count),
        decodes=0,
        decode_tables=none.view(0, 0),
        decode_contexts=none,
        max_decode_context=0,
        prefills=[PrefillSpan(0, count, torch.arange(pages), count)],
        logit_rows=torch.tensor([count - 1]),
    )
    with torch.inference_mode():
        return decoder.forward(batch, kv)[0]


def test_tokens_are_the_tokenizers(told: Explanation) -> None:
    tokenizer = Tokenizer.load(models.path("embedded"))
    assert [token.id for token in told.tokens] == tokenizer.encode(PROMPT)
    assert b"".join(bytes.fromhex(token.bytes) for token in told.tokens) == PROMPT.encode()
    parts = [token.text for token in told.tokens if token.kind == "bytes"]
    assert "".join(parts).startswith("<0xCF><0x80>")  # the two bytes of π


def test_a_piece_says_what_kind_it_is() -> None:
    tokenizer = Tokenizer.load(models.path("embedded"))
    (end,) = ModelConfig.load(models.path("embedded")).eos_token_ids
    assert piece(tokenizer, end) == piece(tokenizer, end)
    assert (piece(tokenizer, end).text, piece(tokenizer, end).kind) == ("<|endoftext|>", "special")
    beyond = tokenizer.vocab_size
    assert piece(tokenizer, beyond).text == f"<id {beyond}>"
    (half, _) = tokenizer.encode("π")
    assert piece(tokenizer, half).text == "<0xCF>"
    assert piece(tokenizer, half).bytes == "cf"


def test_candidates_are_the_decoders_own_logits(told: Explanation) -> None:
    logits = logits_after([token.id for token in told.tokens])
    best = logits.topk(5)
    assert [c.token.id for c in told.candidates] == best.indices.tolist()
    assert [c.logit for c in told.candidates] == pytest.approx(best.values.tolist())
    probabilities = logits.softmax(-1)[best.indices].tolist()
    assert [c.probability for c in told.candidates] == pytest.approx(probabilities)


def test_each_way_says_what_the_engine_says(told: Explanation, llm: LLM) -> None:
    drawn = SamplingParams(max_tokens=6, temperature=0.8, seed=11, logprobs=1)
    ways = {
        "greedy": SamplingParams(max_tokens=6, temperature=0.0, logprobs=1),
        "top-k": msgspec.structs.replace(drawn, top_k=7),
        "top-p": msgspec.structs.replace(drawn, top_p=0.6),
        "sampling": drawn,
        "beam": SamplingParams(max_tokens=6, beam=Beam(width=3)),
    }
    assert [choice.strategy for choice in told.choices] == list(ways)
    for choice in told.choices:
        (alone,) = llm.generate([PROMPT], ways[choice.strategy])
        first = alone.choices[0]
        assert [token.id for token in choice.continuation] == first.token_ids
        assert choice.token == choice.continuation[0]
        assert (choice.text, choice.finish_reason) == (first.text, first.finish_reason)
        if first.score is None:
            assert choice.logprob == pytest.approx(sum(t.logprob for t in first.logprobs))
        else:
            assert choice.logprob / len(choice.continuation) == pytest.approx(first.score)


def test_what_is_left_to_choose_among(told: Explanation) -> None:
    greedy, top_k, top_p, plain, beam = told.choices
    vocabulary = told.model.vocab_size
    assert (greedy.kept, top_k.kept, plain.kept, beam.kept) == (1, 7, vocabulary, vocabulary)
    assert greedy.token == told.candidates[0].token
    assert plain.mass == pytest.approx(1.0)
    # The fewest likeliest tokens that hold top_p: one less would not.
    ordered = (logits_after([t.id for t in told.tokens]) / 0.8).softmax(-1).sort(descending=True)
    held = ordered.values.cumsum(-1)
    assert held[top_p.kept - 2] < 0.6 <= held[top_p.kept - 1]
    assert top_p.mass == pytest.approx(float(held[top_p.kept - 1]))
    for choice in (top_k, top_p):
        assert choice.token.id in ordered.indices[: choice.kept].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_sum_of_logit_and_noise_is_what_sampling_takes(llm: LLM, seed: int) -> None:
    from penstock.engine.explain import _candidates

    ids = llm.tokenizer.encode(PROMPT)
    settings = Settings(temperature=1.3, seed=seed)
    likeliest, drawn = _candidates(llm.tokenizer, logits_after(ids), settings, len(ids))
    params = SamplingParams(max_tokens=1, temperature=1.3, seed=seed)
    assert [drawn.token.id] == llm.generate([ids], params)[0].token_ids
    for candidate in [*likeliest, drawn]:
        assert candidate.score == pytest.approx(candidate.logit / 1.3 + candidate.noise, abs=1e-5)
        assert candidate.score <= drawn.score


def test_the_stages_add_up(told: Explanation) -> None:
    prefill, decode = told.steps
    assert (prefill.name, prefill.tokens, prefill.context) == ("prefill", *[len(told.tokens)] * 2)
    assert (decode.name, decode.tokens, decode.context) == ("decode", 1, len(told.tokens) + 1)
    order = ["schedule", "prepare", "embed", "layers", "head", "sample"]
    for each in told.steps:
        assert [stage.name for stage in each.stages] == order
        assert [part.name for part in each.parts] == ["attention", "feed-forward"]
        assert [(stage.layer, stage.name) for stage in each.layers] == [
            (layer, name) for layer in range(8) for name in ("attention", "feed-forward")
        ]
        layers = each.stages[3]
        for field in ("first_s", "warm_s"):
            for whole, parts in (
                (each.total, each.stages),
                (layers, each.parts),
                (layers, each.layers),
            ):
                times = [getattr(part, field) for part in parts]
                assert min(times) > 0
                assert sum(times) == pytest.approx(getattr(whole, field))


def test_the_stages_are_nearly_all_of_a_step(engine: Engine) -> None:
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    shares = []
    with watching(engine.decoder) as watched:
        for index in range(12):
            engine.submit(GenerateRequest(id=str(index), prompt=[5, 6, 7] * 20, params=params))
            for _ in range(2):
                whole, stages = timed_step(engine, watched)
                assert sum(stages.values()) <= whole
                shares.append(sum(stages.values()) / whole)
            assert not engine.has_work
    assert median(shares) > 0.9


def test_a_watched_decoder_is_left_as_it_was(engine: Engine) -> None:
    decoder = engine.decoder
    before = [dict(vars(owner)) for owner in (decoder, *decoder.layers)]
    with pytest.raises(ZeroDivisionError), watching(decoder):
        assert "forward" in vars(decoder)
        raise ZeroDivisionError
    after = [vars(owner) for owner in (decoder, *decoder.layers)]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(old[name] is new[name] for name in old)


def test_a_step_that_fails_is_no_measurement(engine: Engine) -> None:
    decoder = engine.decoder
    with watching(decoder) as watched:
        decoder.embedding = None  # type: ignore[assignment]
        engine.submit(GenerateRequest(id="broken", prompt=[5]))
        with pytest.raises(RuntimeError, match="NoneType"):
            timed_step(engine, watched)


def test_the_work_counted_is_the_models(engine: Engine) -> None:
    about, decoder = engine.facts, engine.decoder
    decode = work(decoder, tokens=1, context=40).values()
    assert sum(w.flops for w in decode) == about.flops_per_token + 40 * about.attention_flops
    # Read: weights but norms, K and V of 40 tokens, an embedding row; written: K and V of one.
    norms = 2 * (1 + 2 * 8) * 256
    moved = about.weight_bytes - norms + 41 * about.kv_bytes_per_token + 256 * 2
    assert sum(w.bytes for w in decode) == moved + 4 * about.vocab_size
    prefill = work(decoder, tokens=40, context=40).values()
    each = about.flops_per_token - about.head_flops
    attended = 40 * 41 // 2
    assert sum(w.flops for w in prefill) == (
        40 * each + about.head_flops + attended * about.attention_flops
    )


def test_a_window_bounds_the_work_of_attention(engine: Engine) -> None:
    decoder = engine.decoder
    layer = decoder.layers[0]
    free = work(decoder, tokens=10, context=30)["attention", 0]
    layer.shape = msgspec.structs.replace(layer.shape, window=8)
    bounded = work(decoder, tokens=10, context=30)["attention", 0]
    heads, kv_heads, size = layer.shape.heads, layer.shape.kv_heads, layer.shape.head_dim
    hidden = sum(slot + 1 - 8 for slot in range(20, 30))
    assert free.flops - bounded.flops == 4 * heads * size * hidden
    unread = 30 - (8 + 9)  # the first row sees 8 slots, and each row adds its own
    assert free.bytes - bounded.bytes == unread * 2 * kv_heads * size * 2


def test_costs_are_rates_of_the_warm_time(told: Explanation) -> None:
    machine = told.hardware
    for each in told.steps:
        for stage in [each.total, *each.stages, *each.parts, *each.layers]:
            if stage.name in ("schedule", "prepare"):
                assert stage.cost is None
                continue
            cost = stage.cost
            assert cost is not None
            reading = cost.bytes / machine.read_bytes_per_s
            computing = cost.flops / machine.peak_flops["bf16"]
            assert cost.bound_s == pytest.approx(max(reading, computing))
            assert (cost.binds == "compute") == (computing > reading)
            assert cost.share == pytest.approx(cost.bound_s / stage.warm_s)
            assert cost.flops_per_s == pytest.approx(cost.flops / stage.warm_s)
            assert cost.bytes_per_s == pytest.approx(cost.bytes / stage.warm_s)
        assert each.total.cost is not None
        assert each.total.cost.share < 1


def test_an_explanation_goes_through_json_whole(told: Explanation) -> None:
    assert msgspec.json.decode(msgspec.json.encode(told), type=Explanation) == told


def test_the_first_pass_is_kept_apart_and_the_median_withstands_a_disturbance(
    told: Explanation, engine: Engine
) -> None:
    keys: list[Key] = [("schedule", None), ("embed", None)]
    keys += [(name, layer) for layer in range(8) for name in ("attention", "feed-forward")]
    keys += [("head", None), ("sample", None)]
    passes: list[Timed] = [(1.0, dict.fromkeys(keys, seconds)) for seconds in (9.0, 1.0, 2.0, 50.0)]
    found = step("decode", passes, engine.decoder, engine.facts, told.hardware, tokens=1, context=8)
    assert [(stage.first_s, stage.warm_s) for stage in found.layers] == [(9.0, 2.0)] * 16
    assert (found.total.first_s, found.total.warm_s) == (9.0 * 20, 2.0 * 20)
    assert 5 <= told.warm_passes <= 51


def test_another_checkpoint_up_to_its_last_token(checkpoint: Path) -> None:
    told = explain("x" * 510, str(checkpoint), Settings(tokens=2))
    assert len(told.tokens) == 510
    assert told.steps[0].tokens == 510  # in one step, however long
    assert [len(choice.continuation) for choice in told.choices] == [2] * 5


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ("", 8, "the prompt is empty: give some text"),
        ("a\udcff", 8, "not valid UTF-8 at character 1"),
        ("x" * 511, 1, "has 511 tokens; this model holds 512, output included. .*to 510 or less"),
        ("x" * 500, 13, r"tokens=13 with a 500-token prompt needs 513; .* Lower tokens to 12"),
    ],
)
def test_a_prompt_that_cannot_be(checkpoint: Path, prompt: str, tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(prompt, str(checkpoint), Settings(tokens=tokens))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokens", 0, "max_tokens=0"),
        ("temperature", 0.0, "temperature=0.0 must be above 0: at 0 every choice is the greedy"),
        ("temperature", float("nan"), "temperature=nan"),
        ("top_k", 0, "top_k=0 must be at least 1"),
        ("top_p", 1.5, "top_p=1.5"),
        ("beams", 0, "beam width=0"),
        ("beams", 1025, "beam width=1025"),
        ("seed", 2**63, "seed=.* must fit in 64 bits"),
    ],
)
def test_a_setting_that_cannot_be(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{field: value})


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="'nowhere' is neither a directory nor one of embedded"):
        explain("x", "nowhere")
