"""Several choices of one prompt, and log probabilities: the same whatever runs beside them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from penstock.engine.engine import Engine
from penstock.engine.llm import LLM
from penstock.engine.request import (
    MAX_CHOICES,
    BadValue,
    Delta,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
)
from penstock.schedule import QueueFull, RequestRefused
from tests.engine.test_engine import BASE, GREEDY, drain, prompts, request

SEEDED = SamplingParams(n=3, temperature=1.0, top_p=0.95, seed=11, max_tokens=20, ignore_eos=True)


def choices(deltas: list[Delta]) -> list[list[int]]:
    out: dict[int, list[int]] = {}
    for delta in deltas:
        out.setdefault(delta.index, []).extend(delta.token_ids)
    ends = [d.index for d in deltas if d.finish_reason is not None]
    assert sorted(ends) == sorted(out)
    return [out[index] for index in sorted(out)]


def run(engine: Engine, requests: list[GenerateRequest]) -> dict[str, list[list[int]]]:
    for one in requests:
        engine.submit(one)
    made = {name: choices(deltas) for name, deltas in drain(engine).items()}
    assert engine.scheduler.pool.held == 0
    return made


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> list[list[list[int]]]:
    """What each of the prompts is answered when nothing else runs."""
    return [
        run(Engine.load(str(checkpoint), BASE), [request("a", p, SEEDED)])["a"] for p in prompts(4)
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_running": 40, "max_step_tokens": 64},  # all at once
        {"page_size": 4, "max_step_tokens": 12},  # prompts in chunks of four
        {"kv_tokens": 160, "page_size": 4},  # preemptions
        {"prefix_sharing": False},
        {"kv_cache": False, "max_step_tokens": 512},
        {"batching": "static", "fill_wait_s": 0.0},
    ],
    ids=str,
)
def test_seeded_text_is_the_same_alone_and_among_others(
    checkpoint: Path, alone: list[list[list[int]]], more: dict[str, Any]
) -> None:
    asked = prompts(4)
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, **more))
    requests = [request(i, p, SEEDED) for i, p in enumerate(asked)]
    beside = msgspec.structs.replace(SEEDED, n=1, seed=None)
    requests += [request(f"b{i}", p, beside) for i, p in enumerate(prompts(31, seed=9))]
    random.Random(1).shuffle(requests)
    together = run(engine, requests)
    for i in range(4):
        assert together[str(i)] == alone[i]
        assert len({tuple(choice) for choice in together[str(i)]}) == 3
    if "kv_tokens" in more:
        assert engine.stats().preemptions > 0


def test_choices_share_the_pages_of_their_prompt(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    engine.submit(request("a", [5] * 64, msgspec.structs.replace(SEEDED, n=8, max_tokens=10)))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.scheduler.pool.held)
    assert most <= 3 + 8 * 2  # three full pages for all; the fourth is each one's to compute
    assert engine.stats().prompt_tokens == 64


def test_hundreds_of_choices_wait_for_a_seat_and_hold_their_prompt_once(checkpoint: Path) -> None:
    """As many as may be asked for; eight run at once."""
    engine = Engine.load(str(checkpoint), BASE)
    params = msgspec.structs.replace(SEEDED, n=MAX_CHOICES, max_tokens=2)
    engine.submit(request("a", [5] * 64, params))
    deltas, most = [], 0
    while engine.has_work:
        deltas += engine.step()
        most = max(most, engine.scheduler.pool.held)
    made = choices(deltas)
    assert len(made) == MAX_CHOICES
    assert {len(choice) for choice in made} == {2}
    assert most <= 3 + 8 * 2
    with pytest.raises(BadValue, match=f"{MAX_CHOICES}"):
        SamplingParams(n=MAX_CHOICES + 1)


def test_one_choice_can_be_ended_alone(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    engine.submit(request("a", [5] * 20, SEEDED))
    engine.step()
    engine.abort("a", 1)
    ends = {d.index: d.finish_reason for d in drain(engine)["a"] if d.finish_reason}
    assert ends == {0: "length", 1: "abort", 2: "length"}
    engine.submit(request("a", [5] * 20, SEEDED))  # the id is free again
    engine.abort("a")
    assert {d.finish_reason for d in drain(engine)["a"]} == {"abort"}


def test_all_choices_are_queued_or_none(checkpoint: Path) -> None:
    options = msgspec.structs.replace(BASE, max_running=1, max_waiting=2)
    engine = Engine.load(str(checkpoint), options)
    with pytest.raises(RequestRefused, match="3 sequences") as refused:
        engine.submit(request("a", [5] * 20, SEEDED))  # not now, and not later
    assert refused.value.field == "n"
    assert not engine.has_work
    two = msgspec.structs.replace(SEEDED, n=2)
    engine.submit(request("a", [5] * 20, two))
    with pytest.raises(QueueFull):
        engine.submit(request("b", [5] * 20, two))
    said = drain(engine)
    assert list(said) == ["a"]
    assert len(choices(said["a"])) == 2


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def check(view: TokenLogprob, token: int, row: torch.Tensor, top: int) -> None:
    """Hold one token's view against transformers' log probabilities [vocab]."""
    assert view.logprob == pytest.approx(row[token].item(), abs=1e-3)
    assert view.rank == int((row > row[token]).sum()) + 1
    values, ids = row.topk(top)
    assert [id_ for id_, _ in view.top] == ids.tolist()
    assert [value for _, value in view.top] == pytest.approx(values.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    "more", [{}, {"max_step_tokens": 24}, {"kv_tokens": 160, "page_size": 4}], ids=str
)
@torch.inference_mode()
def test_log_probabilities_are_the_models_own(
    checkpoint: Path, model: LlamaForCausalLM, more: dict[str, Any]
) -> None:
    """Of output and prompt, before temperature, filters and penalties, cached prefixes or not."""
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, **more))
    params = SamplingParams(
        n=2,
        temperature=0.7,
        top_k=20,
        presence_penalty=1.0,
        seed=4,
        max_tokens=12,
        ignore_eos=True,
        logprobs=5,
        prompt_logprobs=2,
    )
    asked = prompts(6)
    for i, prompt in enumerate(asked * 2):
        engine.submit(request(i, prompt, params))
    early = [delta for _ in range(4) for delta in engine.step()]
    for i in range(8):  # these preempt all that runs, some of it in the middle of its prompt
        engine.submit(GenerateRequest(id=f"urgent{i}", prompt=[i] * 30, params=GREEDY, priority=-1))
    said: dict[str, list[Delta]] = {}
    for delta in early:
        said.setdefault(delta.request_id, []).append(delta)
    for name, deltas in drain(engine).items():
        said.setdefault(name, []).extend(deltas)
    assert engine.stats().preemptions > 0
    for name, deltas in said.items():
        if name.startswith("urgent"):
            continue
        prompt = asked[int(name) % 6]
        outputs = choices(deltas)
        (rated,) = [d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None]
        assert rated[0] is None
        assert len(rated) == len(prompt)
        for index, output in enumerate(outputs):
            known = prompt + output
            rows = model(torch.tensor([known])).logits[0].log_softmax(-1)
            views = [view for d in deltas if d.index == index for view in d.logprobs]
            assert len(views) == len(output)
            for i, view in enumerate(views):
                check(view, output[i], rows[len(prompt) + i - 1], 5)
            for i, view in enumerate(rated[1:], start=1):
                assert view is not None
                check(view, prompt[i], rows[i - 1], 2)


def test_the_offline_interface_returns_every_choice(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), BASE)
    params = msgspec.structs.replace(SEEDED, logprobs=0, prompt_logprobs=1)
    ended: list[int] = []
    first, second = llm.generate(["ab cd", [1, 2, 3]], params, progress=ended.append)
    assert ended[-1] == 2
    for completion in (first, second):
        assert len({tuple(c.token_ids) for c in completion.choices}) == 3
        assert completion.token_ids == completion.choices[0].token_ids
        assert [len(c.logprobs) for c in completion.choices] == [20, 20, 20]
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs) == 5


def test_times_are_told_at_the_end(checkpoint: Path) -> None:
    engine = Engine.load(str(checkpoint), BASE)
    for i in range(20):
        engine.submit(request(i, [i] * 30, SEEDED))
    last = [d for deltas in drain(engine).values() for d in deltas if d.finish_reason]
    assert all(d.timing is not None for d in last)
    timings = [d.timing for d in last if d.timing is not None]
    assert all(min(t.queue_s, t.prefill_s, t.decode_s) >= 0 for t in timings)
    assert max(t.queue_s for t in timings) > min(t.queue_s for t in timings) + 0.001
    assert all(t.decode_s > 0 for t in timings)
