"""The engine on a real checkpoint: same answer whatever runs beside it, one end each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import Delta, GenerateRequest, SamplingParams
from penstock.schedule import QueueFull, RequestRefused

BASE = EngineOptions(dtype="fp32", kv_tokens=4096, max_running=8, max_step_tokens=64, threads=1)
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


def prompts(count: int, seed: int = 3) -> list[list[int]]:
    rng = random.Random(seed)
    stem = [rng.randrange(256) for _ in range(40)]
    return [
        stem[: rng.choice([0, 17, 40])] + [rng.randrange(256) for _ in range(rng.randrange(1, 60))]
        for _ in range(count)
    ]


def request(name: object, prompt: list[int], params: SamplingParams = GREEDY) -> GenerateRequest:
    return GenerateRequest(id=str(name), prompt=prompt, params=params)


def drain(engine: Engine) -> dict[str, list[Delta]]:
    deltas: dict[str, list[Delta]] = {}
    while engine.has_work:
        for delta in engine.step():
            deltas.setdefault(delta.request_id, []).append(delta)
        engine.scheduler.check()
    return deltas


def tokens(deltas: list[Delta]) -> list[int]:
    assert [d.finish_reason is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    return [t for d in deltas for t in d.token_ids]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> list[list[int]]:
    """Greedy continuations of `prompts(12)` by transformers, one at a time."""
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    out = []
    for prompt in prompts(12):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=256,
        )
        out.append(made[0, len(prompt) :].tolist())
    return out


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_running": 1},
        {"max_step_tokens": 24},
        {"page_size": 4},
        {"kv_tokens": 192},  # pages run out: preemption
        {"kv_tokens": 192, "page_size": 1},
        {"prefix_sharing": False},
        {"chunked_prefill": False},
        {"kv_cache": False},
        {"batching": "static", "fill_wait_s": 0.0},
        {"batching": "static", "fill_wait_s": 0.0, "kv_tokens": 192},
    ],
    ids=str,
)
def test_greedy_text_is_that_of_transformers_with_every_switch(
    checkpoint: Path, reference: list[list[int]], change: dict[str, Any]
) -> None:
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, **change))
    for i, prompt in enumerate(prompts(12)):
        engine.submit(request(i, prompt))
    deltas = drain(engine)
    assert [tokens(deltas[str(i)]) for i in range(12)] == reference
    stats = engine.stats()
    assert (stats.finished, stats.running, stats.waiting, stats.pages_held) == (12, 0, 0, 0)
    assert stats.output_tokens == stats.sequence_steps == 12 * 24
    if "kv_tokens" in change:
        assert stats.preemptions > 0
    if change.get("prefix_sharing", True) and change.get("kv_cache", True):
        assert stats.cached_tokens > 0


def test_seeded_sampling_does_not_depend_on_what_else_runs(checkpoint: Path) -> None:
    def params(i: int) -> SamplingParams:
        return SamplingParams(
            temperature=0.9, top_k=50 * (i % 2), top_p=0.9, seed=i, max_tokens=20, ignore_eos=True
        )

    alone = []
    for i, prompt in enumerate(prompts(8)):
        engine = Engine.load(str(checkpoint), BASE)
        engine.submit(request(i, prompt, params(i)))
        alone.append(tokens(drain(engine)[str(i)]))
    for change in ({}, {"kv_tokens": 128, "page_size": 4}, {"max_step_tokens": 24}):
        engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, **change))
        for i, prompt in enumerate(prompts(8)):
            engine.submit(request(i, prompt, params(i)))
        deltas = drain(engine)
        assert [tokens(deltas[str(i)]) for i in range(8)] == alone
    assert len({tuple(t) for t in alone}) == 8


def test_stop_tokens_end_a_sequence_and_are_counted(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    prompt = prompts(1)[0]
    engine.submit(request("free", prompt))
    free = tokens(drain(engine)["free"])
    stop = next(t for i, t in enumerate(free) if i > 4 and t not in free[:i])
    engine.submit(request("stop", prompt, msgspec.structs.replace(GREEDY, stop_token_ids=(stop,))))
    deltas = drain(engine)["stop"]
    assert tokens(deltas) == free[: free.index(stop) + 1]
    assert deltas[-1].finish_reason == "stop"


def test_abort_at_every_point_leaves_no_page_and_one_end(checkpoint: Path) -> None:
    for steps in range(12):
        engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, max_running=2))
        for i, prompt in enumerate(prompts(4)):
            engine.submit(request(i, prompt))
        seen = [d for _ in range(steps) for d in engine.step()]
        for i in (0, 3):
            engine.abort(str(i))
        rest = [d for deltas in drain(engine).values() for d in deltas]
        ends = {d.request_id: d.finish_reason for d in seen + rest if d.finish_reason}
        assert ends == {"0": "abort", "1": "length", "2": "length", "3": "abort"}
        assert engine.stats().pages_held == 0


def test_a_step_that_breaks_fails_what_ran_and_the_engine_lives(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, max_running=2))
    for i, prompt in enumerate(prompts(4)):
        engine.submit(request(i, prompt))
    engine.step()
    forward = engine._runner.decoder.forward
    engine._runner.decoder.forward = lambda *_: 1 / 0  # type: ignore[method-assign]
    broken = engine.step()
    engine._runner.decoder.forward = forward  # type: ignore[method-assign]
    assert {(d.request_id, d.finish_reason, d.error) for d in broken} == {
        (name, "error", "ZeroDivisionError: division by zero") for name in "01"
    }
    deltas = drain(engine)
    assert {n: d[-1].finish_reason for n, d in deltas.items()} == {"2": "length", "3": "length"}


def test_what_cannot_fit_is_refused_with_the_numbers(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    with pytest.raises(RequestRefused, match=r"max_tokens=24 with a 500-token prompt needs 524"):
        engine.submit(request("a", [1] * 500))
    with pytest.raises(RequestRefused, match=r"prompt has 600 tokens; this model holds 512"):
        engine.submit(request("b", [1] * 600))
    with pytest.raises(RequestRefused, match="token id 259"):
        engine.submit(request("c", [1, 259]))
    with pytest.raises(RequestRefused, match="prompt is empty"):
        engine.submit(request("d", []))
    small = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_tokens=64))
    with pytest.raises(RequestRefused, match="prompt has 100 tokens; this model holds 65"):
        small.submit(request("e", [1] * 100))
    unlimited = msgspec.structs.replace(GREEDY, max_tokens=None)
    small.submit(request("f", [1] * 40, unlimited))
    assert len(tokens(drain(small)["f"])) == 25


def test_a_full_queue_says_when_to_come_back(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, max_waiting=2))
    engine.submit(request("a", [1, 2]))
    engine.submit(request("b", [1, 2]))
    with pytest.raises(QueueFull, match="max_waiting") as full:
        engine.submit(request("c", [1, 2]))
    assert full.value.retry_after_s >= 1.0
    drain(engine)
    engine.submit(request("c", [1, 2]))
    assert len(tokens(drain(engine)["c"])) == 24


def test_bad_options_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="max_model_len=4096 must lie between 2 and 512"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, max_model_len=4096))
    with pytest.raises(ValueError, match="less than one page"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_tokens=8))
    with pytest.raises(ValueError, match="neither a directory nor one of embedded"):
        Engine.load("no-such-model", BASE)
