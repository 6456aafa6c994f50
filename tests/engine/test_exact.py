"""What changes speed and not the answer, each with each other: the text stays the plain engine's.

A technique is a change of the engine's options, or of what is asked for. The
text of any two together is compared with that of an engine without any, asked
for the same: one plain step at a time, in fp32. The model repeats itself, so that
every source of guesses is right at times.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.engine import runner
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, GenerateRequest, Grammar, SamplingParams
from tests.engine.conftest import FAVOURITES
from tests.engine.speculate.faults import (
    accepted_too_often,
    bonus_off_by_one,
    no_resample,
    same_noise_again,
)

BASE = EngineOptions(dtype="fp32", kv_tokens=1024, max_running=6, max_step_tokens=96, threads=1)
GREEDY = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)


@dataclass(frozen=True)
class Technique:
    options: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


TECHNIQUES = {
    "lookup": Technique({"speculate": "lookup", "draft_tokens": 5}),
    "lookup, as it pays": Technique({"speculate": "lookup"}),
    "suffix": Technique({"speculate": "suffix", "draft_tokens": 5}),
    "draft model": Technique({"speculate": "draft", "draft_tokens": 3}),
    "draft model, as it pays": Technique({"speculate": "draft"}),
    "long guesses": Technique({"speculate": "draft", "draft_tokens": 8}),
    "small chunks": Technique({"max_step_tokens": 24}),
    "whole prompts": Technique({"chunked_prefill": False}),
    "nothing shared": Technique({"prefix_sharing": False}),
    "static batches": Technique({"batching": "static", "fill_wait_s": 0.0}),
    "no KV cache": Technique({"kv_cache": False}),
    "alone": Technique({"max_running": 1}),
    "preempted": Technique({"kv_tokens": 208}),
    "pages of 4": Technique({"page_size": 4}),
    "sampling": Technique(params={"temperature": 0.8, "seed": 11}),
    "top-p": Technique(params={"temperature": 1.2, "seed": 5, "top_p": 0.8, "top_k": 40}),
    "penalties": Technique(params={"repetition_penalty": 1.2, "frequency_penalty": 0.5}),
    "log probabilities": Technique(params={"logprobs": 2, "prompt_logprobs": 1}),
    "three choices": Technique(params={"n": 3, "temperature": 0.9, "seed": 3}),
    "grammar": Technique(
        params={"grammar": Grammar("regex", "[a-f]{4,12}(xyz)+"), "ignore_eos": False}
    ),
    "stops": Technique(params={"stop_token_ids": tuple(range(0, 256, 9))}),
    "beams": Technique(params={"beam": Beam(width=3)}),
}


def prompts() -> list[list[int]]:
    rng = random.Random(2)
    stem = [rng.randrange(256) for _ in range(40)]
    period = rng.sample(FAVOURITES, 5)
    return [
        [*stem, 7],
        period * 8,
        stem[:20] + period * 3,
        [rng.randrange(256) for _ in range(3)],
        stem + period,
        [rng.randrange(256) for _ in range(70)],
        [*(period * 8), 9],
    ]


def together(*names: str) -> tuple[dict[str, Any], SamplingParams] | None:
    """Options and parameters of some techniques; None where they exclude each other."""
    options: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for name in names:
        technique = TECHNIQUES[name]
        if (options.keys() & technique.options) or (params.keys() & technique.params):
            return None
        options |= technique.options
        params |= technique.params
    if params.get("grammar") and params.get("stop_token_ids"):
        return None  # a stop may cut what the grammar wants
    if not options.get("kv_cache", True) and ("speculate" in options or params.get("beam")):
        return None  # refused
    if params.get("beam") and options.keys() & {"max_running", "kv_tokens"}:
        return None  # refused: three beams have no room
    try:
        return options, msgspec.structs.replace(GREEDY, **params)
    except ValueError:
        return None


def texts(model: Path, options: EngineOptions, params: SamplingParams) -> tuple[Any, Counter[str]]:
    """What is said to each prompt, and what happened on the way."""
    engine = Engine.load(str(model), options)
    for i, prompt in enumerate(prompts()):
        engine.submit(GenerateRequest(id=str(i), prompt=prompt, params=params))
    told: dict[tuple[str, int], Any] = {}
    while engine.has_work:
        for delta in engine.step():
            said = told.setdefault((delta.request_id, delta.index), [[], None, [], None])
            said[0] += delta.token_ids
            said[1] = delta.finish_reason
            said[2] += [(view.rank, [t for t, _ in view.top]) for view in delta.logprobs]
            said[3] = said[3] or (
                delta.prompt_logprobs and [view and view.rank for view in delta.prompt_logprobs]
            )
        engine.scheduler.check()
    stats = engine.stats()
    made, right = sum(stats.guessed), sum(stats.guessed_right)
    happened = {"rows": 1, "made": made, "right": right, "rows with right ones": right > 0}
    return sorted(told.items()), Counter(happened | {"preempted": stats.preemptions})


PLAIN: dict[str, Any] = {}
TALLIES: dict[str, Counter[str]] = defaultdict(Counter)  # by technique, over all rows it is in

ALONE = [(name,) for name, technique in TECHNIQUES.items() if technique.options]
PAIRS = [
    # What is asked for changes nothing about the engine: two such are tried with guesses.
    pair if any(TECHNIQUES[name].options for name in pair) else ("draft model", *pair)
    for pair in itertools.combinations(TECHNIQUES, 2)
]
ROWS = [names for names in [*ALONE, *PAIRS] if together(*names) is not None]


@pytest.mark.parametrize("names", ROWS, ids=" + ".join)
@pytest.mark.usefixtures("guesses_pay")
def test_the_text_is_that_of_the_plain_engine(
    names: tuple[str, ...], repeating: Path, repeating_draft: Path
) -> None:
    options, params = together(*names)  # type: ignore[misc]
    if options.get("speculate") == "draft":
        options = options | {"draft_model": str(repeating_draft)}
    key = json.dumps(msgspec.to_builtins(params))
    if key not in PLAIN:
        PLAIN[key], _ = texts(repeating, BASE, params)
    said, happened = texts(repeating, msgspec.structs.replace(BASE, **options), params)
    assert said == PLAIN[key]
    for name in names:
        TALLIES[name] += happened


def test_the_table_is_whole() -> None:
    assert len(ROWS) > 150
    assert {name for names in ROWS for name in names} == set(TECHNIQUES)


@pytest.mark.parametrize("name", [n for n in TECHNIQUES if "speculate" in TECHNIQUES[n].options])
def test_every_source_is_right_and_wrong_in_its_rows(name: str) -> None:
    tally = need_whole(name)
    assert tally["rows with right ones"] >= 0.7 * tally["rows"], tally
    assert 0.05 * tally["made"] < tally["right"] < 0.95 * tally["made"], tally


def test_small_pools_preempt() -> None:
    tally = need_whole("preempted")
    assert tally["preempted"] >= tally["rows"], tally


def need_whole(name: str) -> Counter[str]:
    """The tally of a technique, if all of its rows ran."""
    tally = TALLIES[name]
    if tally["rows"] < sum(name in names for names in ROWS):
        pytest.skip("the table did not run whole")
    return tally


@pytest.mark.parametrize(
    "fault", [no_resample, bonus_off_by_one, same_noise_again, accepted_too_often]
)
def test_the_comparison_sees_planted_faults(
    fault: Callable[..., list[int]],
    repeating: Path,
    repeating_draft: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, params = together("draft model", "sampling")  # type: ignore[misc]
    plain, _ = texts(repeating, BASE, params)
    monkeypatch.setattr(runner, "pick", fault)
    engine = msgspec.structs.replace(BASE, **options, draft_model=str(repeating_draft))
    assert texts(repeating, engine, params)[0] != plain
