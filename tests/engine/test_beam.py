"""Beam search finds what transformers finds, whatever runs beside it."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, GenerateRequest, SamplingParams
from penstock.schedule import RequestRefused
from tests.engine.test_engine import BASE, drain, prompts, request

STOP = 17  # a token of the small model that comes up often enough


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def expected(
    model: LlamaForCausalLM, prompt: list[int], params: SamplingParams
) -> list[tuple[list[int], float]]:
    """Output ids and scores by transformers, best first."""
    beam = params.beam
    assert beam is not None
    ids = torch.tensor([prompt])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=params.max_tokens,
        do_sample=False,
        num_beams=beam.width,
        num_return_sequences=params.n,
        length_penalty=beam.length_penalty,
        early_stopping=beam.early_stopping,
        eos_token_id=list(params.stop_token_ids) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = []
    for row, score in zip(made.sequences.tolist(), made.sequences_scores.tolist(), strict=True):
        out = row[len(prompt) :]
        ends = [i for i, token in enumerate(out) if token in params.stop_token_ids]
        found.append((out[: ends[0] + 1] if ends else out, score))
    return found


def search(
    width: int, n: int = 1, stops: tuple[int, ...] = (), limit: int = 20, **beam: object
) -> SamplingParams:
    return SamplingParams(
        n=n,
        max_tokens=limit,
        ignore_eos=True,
        stop_token_ids=stops,
        beam=msgspec.convert({"width": width, **beam}, Beam),
    )


def run(
    engine: Engine, requests: list[GenerateRequest]
) -> dict[str, list[tuple[list[int], float]]]:
    for asked in requests:
        engine.submit(asked)
    out = {}
    for name, deltas in drain(engine).items():
        deltas = sorted((d for d in deltas if d.finish_reason), key=lambda d: d.index)
        out[name] = [(d.token_ids, d.score) for d in deltas]
    assert engine.scheduler.pool.held == 0
    return out


def same(ours: list[tuple[list[int], float]], theirs: list[tuple[list[int], float]]) -> None:
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5)


STYLES = [
    search(4, n=4),
    search(4, n=2, stops=(STOP, 3, 99), length_penalty=1.0),
    search(4, n=4, stops=(STOP, 3), length_penalty=0.6, early_stopping=True),
    search(3, n=3, stops=(STOP, 3), length_penalty=2.0, early_stopping="never"),
    search(5, n=1, stops=(STOP,), length_penalty=0.0),
    search(2, n=2, stops=tuple(range(40)), length_penalty=-1.0),
]


@pytest.mark.parametrize("params", STYLES)
def test_sequences_and_scores_are_those_of_transformers(
    checkpoint: Path, model: LlamaForCausalLM, params: SamplingParams
) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    asked = prompts(5, seed=11)
    ours = run(engine, [request(i, p, params) for i, p in enumerate(asked)])
    for i, prompt in enumerate(asked):
        same(ours[str(i)], expected(model, prompt, params))


TIGHT = [
    EngineOptions(dtype="fp32", threads=1, kv_tokens=tokens, page_size=page, **more)
    for tokens, page, more in [
        (4096, 16, {"max_running": 8, "max_step_tokens": 64}),
        (512, 4, {"max_running": 20, "max_step_tokens": 32}),
        (512, 16, {"max_running": 5, "max_step_tokens": 24}),
        (4096, 16, {"max_running": 8, "max_step_tokens": 64, "chunked_prefill": False}),
        (4096, 16, {"max_running": 8, "max_step_tokens": 64, "prefix_sharing": False}),
        (4096, 16, {"max_running": 4, "batching": "static", "fill_wait_s": 0.0}),
    ]
]


@pytest.mark.parametrize("options", TIGHT)
def test_searches_beside_samples_and_aborts_in_tight_pools_find_the_same(
    checkpoint: Path, model: LlamaForCausalLM, options: EngineOptions
) -> None:
    engine = Engine.load(str(checkpoint), options)
    params = search(4, n=4, stops=(STOP, 3), limit=24)
    rng = random.Random(5)
    asked = prompts(5, seed=12)
    beside = SamplingParams(max_tokens=30, temperature=1.0, seed=1, ignore_eos=True)
    requests = [request(i, p, params) for i, p in enumerate(asked)]
    requests += [request(f"s{i}", p, beside) for i, p in enumerate(prompts(6, seed=13))]
    requests += [request(f"gone{i}", p, params) for i, p in enumerate(prompts(3, seed=14))]
    rng.shuffle(requests)
    for one in requests:
        engine.submit(one)
    out: dict[str, dict[int, tuple[list[int], float]]] = {}
    for step in range(100_000):
        if not engine.has_work:
            break
        if step == 12:  # live work, which takes the seats of what runs
            for i, prompt in enumerate(prompts(8, seed=15)):
                urgent = GenerateRequest(id=f"u{i}", prompt=prompt, params=beside, priority=-1)
                engine.submit(urgent)
        if step % 7 == 5:
            engine.abort(f"gone{step // 7 % 3}")
        for delta in engine.step():
            if delta.finish_reason and delta.score is not None:
                out.setdefault(delta.request_id, {})[delta.index] = (delta.token_ids, delta.score)
        engine.scheduler.check()
    assert engine.scheduler.pool.held == 0
    for i, prompt in enumerate(asked):
        same([out[str(i)][j] for j in range(4)], expected(model, prompt, params))
    if options.batching == "continuous":
        assert engine.stats().preemptions > 0


def test_a_search_takes_a_row_for_each_beam_and_a_page_only_where_they_differ(
    checkpoint: Path,
) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    engine.submit(request("a", [5] * 64, search(4, limit=10)))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.scheduler.pool.held)
    assert engine.facts.page_size == 16
    assert most <= 4 + 4  # four pages of prompt for all, one of each beam's own


def test_what_no_search_can_do_is_refused(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    with pytest.raises(RequestRefused, match="max_running"):
        engine.submit(request("a", [1, 2], search(9, limit=4)))
    with pytest.raises(ValueError, match="top_p has no meaning"):
        SamplingParams(beam=Beam(width=2), top_p=0.5)
    with pytest.raises(ValueError, match="temperature has no meaning"):
        SamplingParams(beam=Beam(width=2), temperature=0.7)
    with pytest.raises(ValueError, match="between n=4"):
        search(3, n=4)
    plain = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_cache=False))
    with pytest.raises(RequestRefused, match="KV cache"):
        plain.submit(request("a", [1, 2], search(2, limit=4)))
