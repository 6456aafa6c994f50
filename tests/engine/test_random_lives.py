"""Random lives of an engine that guesses: whoever comes or goes, the texts are the plain engine's.

A seed draws what the engine may use, who asks for what, when they come, and which of
them are given up on the way. What the plain engine says, asked for the same and for
all of it, is the measure of every text; that of a choice given up is the beginning of it.
"""

from __future__ import annotations

import functools
import gc
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.engine import runner
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, Grammar, SamplingParams
from penstock.engine.speculate.speculator import Speculator
from penstock.schedule import Sequence
from tests.engine.conftest import FAVOURITES
from tests.engine.speculate.faults import bonus_off_by_one, no_resample

PLAIN = EngineOptions(dtype="fp32", kv_tokens=2048, max_running=6, max_step_tokens=96, threads=1)
SOURCES: dict[str, dict[str, Any]] = {
    "lookup": {"speculate": "lookup", "draft_tokens": 6},
    "lookup, as it pays": {"speculate": "lookup"},
    "suffix": {"speculate": "suffix", "draft_tokens": 6},
    "suffix, as it pays": {"speculate": "suffix"},
    "draft model": {"speculate": "draft", "draft_tokens": 3},
    "long guesses": {"speculate": "draft", "draft_tokens": 8},
    "draft model, as it pays": {"speculate": "draft"},
}
CHOICES: dict[str, list[Any]] = {
    "kv_tokens": [160, 208, 256, 640],
    "page_size": [4, 16],
    "max_step_tokens": [24, 40, 96],
    "max_running": [3, 6],
    "prefix_sharing": [True, True, False],
}
ASKED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 1.0, "top_p": 0.8, "top_k": 30},
    {"temperature": 0.7, "n": 3},
    {"temperature": 0.0, "repetition_penalty": 1.2, "logprobs": 2},
    {"temperature": 0.9, "stop_token_ids": tuple(FAVOURITES[::4])},
    {"grammar": Grammar("regex", "[a-f]{4,12}(xyz)+"), "ignore_eos": False},
]
QUICK = range(3)

Choice = tuple[str, int]
Lived = tuple[dict[Choice, list[int]], dict[Choice, str]]


def requests(rng: random.Random) -> list[GenerateRequest]:
    stem = [rng.randrange(256) for _ in range(40)]
    period = rng.sample(FAVOURITES, 5)
    made = []
    for i in range(14):
        prompt = stem[: rng.choice([0, 16, 33, 40])] + period * rng.randrange(6)
        prompt += [rng.randrange(256) for _ in range(rng.randrange(1, 24))]
        asked = {"seed": i, "ignore_eos": True, "max_tokens": rng.randrange(1, 30)}
        params = SamplingParams(**asked | rng.choice(ASKED))
        made.append(GenerateRequest(id=str(i), prompt=prompt, params=params))
    return made


def live(engine: Engine, coming: list[GenerateRequest], rng: random.Random, aborts: float) -> Lived:
    """What was said to each choice, and why it ended. `aborts` come so often, by step."""
    said: dict[Choice, list[int]] = {}
    ends: dict[Choice, str] = {}
    here: list[str] = []
    coming = list(coming)
    while coming or engine.has_work:
        for _ in range(min(rng.randrange(3), len(coming))):
            request = coming.pop()
            engine.submit(request)
            here.append(request.id)
        if here and rng.random() < aborts:
            engine.abort(rng.choice(here), rng.choice([None, None, 0]))
        for delta in engine.step():
            choice = delta.request_id, delta.index
            assert choice not in ends, f"{choice} had ended"
            assert delta.error is None
            said.setdefault(choice, []).extend(delta.token_ids)
            if delta.finish_reason is not None:
                ends[choice] = delta.finish_reason
        engine.scheduler.check()
    return said, ends


def compare(
    model: Path, plainly: Callable[[int], Lived], source: dict[str, Any], seed: int
) -> Counter[str]:
    """Live one life and hold it against the plain engine; what happened in it."""
    rng = random.Random(seed)
    asked = requests(rng)
    squeeze = {name: rng.choice(values) for name, values in CHOICES.items()}
    engine = Engine.load(str(model), msgspec.structs.replace(PLAIN, **squeeze, **source))
    said, ends = live(engine, asked, rng, aborts=0.08)
    whole, reasons = plainly(seed)
    assert ends.keys() == whole.keys(), f"{seed=}: each choice ends once"
    for choice, text in said.items():
        if ends[choice] == "abort":
            assert text == whole[choice][: len(text)], f"{seed=} {squeeze=} {choice=}"
        else:
            assert (text, ends[choice]) == (whole[choice], reasons[choice]), (
                f"{seed=} {squeeze=} {choice=}"
            )
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0), f"{seed=}"
    happened = {"preempted": stats.preemptions, "made": sum(stats.guessed)}
    return Counter(ends.values()) + Counter(happened | {"right": sum(stats.guessed_right)})


@pytest.fixture(scope="module")
def plainly(repeating: Path) -> Callable[[int], Lived]:
    """What the plain engine says to all who come in the life of a seed."""
    engine = Engine.load(str(repeating), PLAIN)

    @functools.cache
    def lived(seed: int) -> Lived:
        rng = random.Random(seed)
        return live(engine, requests(rng), rng, aborts=0.0)

    return lived


@pytest.fixture
def source(name: str, repeating_draft: Path, guesses_pay: None) -> dict[str, Any]:
    options = SOURCES[name]
    drafting = options["speculate"] == "draft"
    return options | ({"draft_model": str(repeating_draft)} if drafting else {})


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "seeds", [QUICK, pytest.param(range(QUICK.stop, 80), marks=pytest.mark.slow)], ids=str
)
def test_texts_are_those_of_the_plain_engine(
    seeds: range, source: dict[str, Any], repeating: Path, plainly: Callable[[int], Lived]
) -> None:
    happened: Counter[str] = Counter()
    for seed in seeds:
        happened += compare(repeating, plainly, source, seed)
    # Else nothing was tried.
    assert min(happened[what] for what in ("abort", "length", "stop", "preempted")) > 0, happened
    made = happened["made"]
    assert 0.03 * made < happened["right"] < 0.95 * made, happened


@pytest.mark.parametrize("name", ["draft model"])
@pytest.mark.parametrize("fault", [no_resample, bonus_off_by_one])
def test_wrong_texts_are_seen(
    fault: Callable[..., list[int]],
    source: dict[str, Any],
    repeating: Path,
    plainly: Callable[[int], Lived],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "pick", fault)
    with pytest.raises(AssertionError, match="seed="):
        compare(repeating, plainly, source, seed=0)


def outlived(model: Path, source: dict[str, Any]) -> int:
    """How many sequences are kept by an engine whose work is done."""
    rng = random.Random(0)
    engine = Engine.load(str(model), msgspec.structs.replace(PLAIN, **source))
    gc.collect()
    gc.freeze()  # what there is already is not looked at
    live(engine, requests(rng), rng, aborts=0.08)
    gc.collect()
    kept = sum(isinstance(each, Sequence) for each in gc.get_objects())
    gc.unfreeze()
    return kept


@pytest.mark.parametrize("name", ["lookup", "suffix", "draft model"])
def test_who_is_gone_is_forgotten(
    source: dict[str, Any], repeating: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those of the last steps, whatever guesses; a source that is not told keeps all."""
    few = 2 * PLAIN.max_running
    assert outlived(repeating, source) <= few
    monkeypatch.setattr(Speculator, "ended", lambda *_: None)
    assert outlived(repeating, source) > few
