"""A budget of KV: the text is that of masked attention, whatever else is switched on."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, GenerateRequest, SamplingParams
from penstock.schedule import RequestRefused
from penstock.schedule.policy import WATCHED
from tests.engine.test_exact import TECHNIQUES, texts

SIZE, KEPT = 4, 48  # tokens of a page and of the budget
BASE = EngineOptions(
    dtype="fp32",
    kv_tokens=4096,
    max_running=6,
    max_step_tokens=96,
    threads=1,
    page_size=SIZE,
    kv_budget=KEPT,
)
GREEDY = SamplingParams(temperature=0.0, max_tokens=50, ignore_eos=True)
POLICIES = ("streaming", "snapkv", "recent", "random")


def generate(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    engine.submit(GenerateRequest(id="one", prompt=prompt, params=params))
    tokens: list[int] = []
    while engine.has_work:
        for delta in engine.step():
            tokens += delta.token_ids
        engine.scheduler.check()
    return tokens


def visible(prompt: int, length: int, keep: str, attended: list[float]) -> torch.Tensor:
    """Which positions each row of a text sees: bool [length, length], as the rules say."""
    early = range(max(0, prompt - WATCHED) // SIZE)
    own = [0.0, *attended[1 : len(early)]]
    near = [max(own[max(0, page - 1) : page + 2]) for page in early]
    best = sorted(early[1:], key=lambda page: (near[page], own[page]), reverse=True)
    loved = {0, *best[: KEPT // SIZE // 2 - 1]}

    def worth(page: int) -> float:
        if keep == "random":
            return random.Random(page).random()
        if keep == "snapkv" and page in early:
            return math.inf if page in loved else near[page] / sum(attended)
        return math.inf if keep != "recent" and page == 0 else page

    sees, pages = torch.zeros(length, length, dtype=torch.bool), [0]
    for row in range(length):
        sees[row] = torch.tensor([i // SIZE in pages and i <= row for i in range(length)])
        if (row + 1) % SIZE == 0:
            pages.append((row + 1) // SIZE)
        while row + 1 >= prompt and len(pages) > KEPT // SIZE:
            newest = row // SIZE
            pages.remove(min((p for p in pages if p < newest), key=worth))
    return sees


def masked(sees: torch.Tensor) -> torch.Tensor:
    return torch.where(sees, 0.0, -1e30)[None, None]


@pytest.mark.parametrize("keep", POLICIES)
def test_the_text_is_that_of_masked_attention(keep: str, checkpoint: Path) -> None:
    rng = random.Random(3)
    prompt = [rng.randrange(256) for _ in range(131)]
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_keep=keep))
    tokens = generate(engine, prompt)
    text = torch.tensor([prompt + tokens])
    theirs = LlamaForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    causal = torch.ones(len(prompt), len(prompt), dtype=torch.bool).tril()
    with torch.no_grad():
        said = theirs(text[:, : len(prompt)], attention_mask=masked(causal), output_attentions=True)
        rows = torch.stack(said.attentions)[:, 0, :, -WATCHED:].sum((0, 1, 2))  # [prompt]
        pages = [float(part.sum()) for part in rows.split(SIZE)]
        sees = visible(len(prompt), text.shape[1], keep, pages)
        expected = theirs(text, attention_mask=masked(sees)).logits[0, len(prompt) - 1 : -1]
        whole = theirs(text).logits[0, len(prompt) - 1 : -1]
    assert tokens == expected.argmax(-1).tolist()
    assert tokens != whole.argmax(-1).tolist(), "nothing was lost that mattered"


def test_attention_to_pages_is_that_of_transformers(checkpoint: Path) -> None:
    prompt = [(7 * i + i // 5) % 256 for i in range(90)]
    engine = Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_keep="snapkv"))
    engine.submit(GenerateRequest(id="one", prompt=prompt, params=GREEDY))
    attended: dict[Any, list[float]] = {}
    while not attended:
        engine.step()
        attended = engine._runner.attended
    theirs = LlamaForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    with torch.no_grad():
        said = theirs(torch.tensor([prompt]), output_attentions=True).attentions
    rows = torch.stack(said)[:, 0, :, -WATCHED:].sum((0, 1, 2))
    (ours,) = attended.values()
    assert ours == pytest.approx([float(part.sum()) for part in rows.split(SIZE)], rel=1e-4)


OTHERS = (
    *("lookup", "suffix", "whole prompts", "nothing shared", "static batches"),
    *("alone", "preempted", "sampling", "three choices"),
)


@pytest.mark.parametrize(
    ("keep", "name"),
    [
        *((keep, name) for keep in ("streaming", "snapkv") for name in OTHERS),
        *((keep, "preempted") for keep in ("recent", "random")),
    ],
)
def test_other_techniques_do_not_change_the_text(keep: str, name: str, checkpoint: Path) -> None:
    """Where pages are given up depends on the text alone: not on chunks, guesses, preemption."""
    technique = TECHNIQUES[name]
    params = msgspec.structs.replace(GREEDY, **technique.params)
    plain = msgspec.structs.replace(BASE, kv_keep=keep)
    expected, _ = texts(checkpoint, plain, params)
    changed = msgspec.structs.replace(plain, **technique.options)
    said, tallies = texts(checkpoint, changed, params)
    assert said == expected
    if name == "preempted":
        assert tallies["preempted"]
    if "speculate" in technique.options:
        assert tallies["made"]


def test_chunks_of_other_sizes_do_not_change_the_text(checkpoint: Path) -> None:
    some = msgspec.structs.replace(BASE, kv_keep="snapkv")
    other = msgspec.structs.replace(some, max_step_tokens=BASE.max_running + SIZE + WATCHED)
    assert texts(checkpoint, some, GREEDY)[0] == texts(checkpoint, other, GREEDY)[0]


def test_pages_are_really_free(checkpoint: Path) -> None:
    """A long text lives in a pool that could not hold it, and leaves room for another."""
    options = msgspec.structs.replace(BASE, kv_tokens=96, prefix_sharing=False)
    engine = Engine.load(str(checkpoint), options)
    params = msgspec.structs.replace(GREEDY, max_tokens=300)
    for name in "ab":
        engine.submit(GenerateRequest(id=name, prompt=[1, 2, 3], params=params))
    most = 0
    while engine.has_work:
        engine.step()
        engine.scheduler.check()
        most = max(most, engine.stats().pages_held)
    assert most == 2 * KEPT // SIZE
    assert engine.stats().finished == 2
    assert engine.stats().preemptions == 0
    assert engine.stats().dropped_tokens == 2 * -(-(302 - KEPT) // SIZE) * SIZE


def test_what_cannot_be_kept_is_refused(checkpoint: Path) -> None:
    options = msgspec.structs.replace(BASE, kv_tokens=96)
    engine = Engine.load(str(checkpoint), options)
    with pytest.raises(RequestRefused, match="prompt has 120 tokens; the KV pool holds 96"):
        engine.submit(GenerateRequest(id="long", prompt=[1] * 120, params=GREEDY))
    beams = msgspec.structs.replace(GREEDY, beam=Beam(width=2))
    with pytest.raises(RequestRefused, match="beams cannot give up KV"):
        engine.submit(GenerateRequest(id="beams", prompt=[1] * 20, params=beams))
    with pytest.raises(ValueError, match="whole pages of 4 tokens"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_budget=50))
    with pytest.raises(ValueError, match="kv_keep=recent without kv_budget"):
        Engine.load(str(checkpoint), EngineOptions(kv_keep="recent"))
    with pytest.raises(ValueError, match="kv_keep=all must be one of streaming"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_keep="all"))
    with pytest.raises(ValueError, match="speculate=draft needs all of the context"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, speculate="draft"))
    with pytest.raises(ValueError, match="kv_budget=48 needs the KV cache"):
        Engine.load(str(checkpoint), msgspec.structs.replace(BASE, kv_cache=False))
