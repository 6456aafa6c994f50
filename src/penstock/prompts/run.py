"""One prompt or chat made shorter, and whether that pays."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import penstock
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.predict.stepfile import load_steptime
from penstock.prompts import breakeven, prefill
from penstock.prompts.breakeven import Bill, BreakEven, Times
from penstock.prompts.keep import Rule
from penstock.prompts.prefill import Prefill
from penstock.prompts.scorer import Scorer
from penstock.prompts.shorten import (
    Message,
    Piece,
    Shortened,
    may_shorten,
    shortened,
    told,
    untouched,
    with_contents,
)
from penstock.record.price import Price

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)  # of the course of times

Progress = Callable[[str], None]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted besides the shorter prompt.

    `target` is what would read it: a model, measured on this machine as `engine` says, or the
    file of a step time; or else `tokens_per_s` of its prefill is known. `cached` tokens of the
    prompt would come from an API's cache.
    """

    rule: Rule = Rule()
    protect: tuple[str, ...] = ()
    target: str | None = None
    tokens_per_s: float | None = None
    engine: EngineOptions = EngineOptions()
    price: Price | None = None
    cached: int = 0


class Course(msgspec.Struct, frozen=True):
    """Predicted seconds of a prompt of so many tokens, at this prompt's share."""

    tokens: int
    times: Times


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A shorter prompt. `messages` is the chat, where one was given, and `text` its JSON."""

    model: str
    rule: Rule
    protect: tuple[str, ...]
    text: str
    messages: list[dict[str, Any]] | None = None
    tokens: int  # in the vocabulary of `model`; of all a chat's messages, without any template
    kept: int
    pieces: list[Piece]
    score_s: float  # 0 where nothing judges
    target: str | None
    break_even: BreakEven | None
    course: list[Course]
    price: str | None
    bill: Bill | None
    notes: list[str]
    conditions: dict[str, Any]


def compress_text(text: str, scorer: Scorer, asked: Asked, progress: Progress) -> Found:
    """Shorten a text. Raises `ValueError` for an empty one, and for what cannot be asked."""
    if not text.strip():
        raise ValueError("the prompt is empty; give a text to shorten.")
    cut = _cut([text], scorer, asked, progress)
    return _found(cut.each[0], cut, scorer, asked, progress)


def compress_chat(
    messages: Sequence[Message], scorer: Scorer, asked: Asked, progress: Progress
) -> Found:
    """Shorten what users say in a chat, each message by itself; the others stay as they are.

    Raises `ValueError` where there is nothing that may be shortened.
    """
    places = [at for at, one in enumerate(messages) if may_shorten(one) and one["content"].strip()]
    if not places:
        raise ValueError("no message may be shortened: none is a user's text that is no JSON.")
    cut = _cut([messages[at]["content"] for at in places], scorer, asked, progress)
    changed = dict(zip(places, cut.each, strict=True))
    made = with_contents(messages, {at: one.text for at, one in changed.items()})
    parts = [
        changed.get(at) or untouched(scorer.tokenizer, told(message))
        for at, message in enumerate(messages)
    ]
    whole = Shortened(
        text=json.dumps(made, ensure_ascii=False),
        stays=np.concatenate([one.stays for one in parts]),
        pieces=[piece for one in parts for piece in (*one.pieces, Piece("\n", 0.0, True))],
    )
    found = _found(whole, cut, scorer, asked, progress)
    return msgspec.structs.replace(found, messages=made)


class _Cut(NamedTuple):
    """The texts that may get shorter, and the seconds it took to judge them."""

    each: list[Shortened]
    score_s: float


def _cut(texts: Sequence[str], scorer: Scorer, asked: Asked, progress: Progress) -> _Cut:
    ids = [scorer.tokenizer.encode(text, special=False) for text in texts]
    surprises: Sequence[NDArray[np.float32] | None] = [None] * len(ids)
    score_s = 0.0
    if asked.rule.judged:
        progress(f"reading with {scorer.model}")
        began = time.perf_counter()
        surprises = scorer.surprise(ids)
        score_s = time.perf_counter() - began
    rated = zip(ids, surprises, strict=True)
    return _Cut(
        [
            shortened(scorer.tokenizer, one, asked.rule, surprise, asked.protect)
            for one, surprise in rated
        ],
        score_s,
    )


def _found(made: Shortened, cut: _Cut, scorer: Scorer, asked: Asked, progress: Progress) -> Found:
    target, name, longest = _target(asked, progress)
    even, course = None, []
    if target is not None:
        part = sum(one.tokens for one in cut.each) / made.tokens
        score = _judging(scorer, part, asked, progress)
        even = breakeven.break_even(target, score, made.tokens, made.kept)
        share = made.kept / made.tokens
        course = [
            Course(n, Times(target(n), score(n), target(max(1, round(share * n)))))
            for n in LENGTHS
            if n <= longest
        ]
    return Found(
        model=scorer.model,
        rule=asked.rule,
        protect=asked.protect,
        text=made.text,
        tokens=made.tokens,
        kept=made.kept,
        pieces=made.pieces,
        score_s=cut.score_s,
        target=name,
        break_even=even,
        course=course,
        price=None if asked.price is None else str(asked.price),
        bill=None
        if asked.price is None
        else breakeven.bill(asked.price, made.stays, min(asked.cached, made.tokens)),
        notes=list(_notes(made, cut, scorer, asked)),
        conditions=_conditions(scorer, asked.rule),
    )


def _judging(scorer: Scorer, part: float, asked: Asked, progress: Progress) -> Prefill:
    """Seconds to judge a prompt of which so large a part may get shorter."""
    if not asked.rule.judged:
        return lambda tokens: 0.0
    progress(f"timing {scorer.model}")
    rating = prefill.measured(scorer.llm.engine, rates=True)
    return lambda tokens: rating(round(part * tokens))


def _target(asked: Asked, progress: Progress) -> tuple[Prefill | None, str | None, int]:
    """The prefill of what would read the prompt, what it is in words, tokens it can read."""
    if asked.tokens_per_s is not None:
        rate = asked.tokens_per_s
        return prefill.steady(rate), f"a prefill of {rate:,.0f} tokens/s", LENGTHS[-1]
    if asked.target is None:
        return None, None, 0
    if asked.target.endswith(".toml"):
        step = load_steptime(Path(asked.target))
        return prefill.told(step), f"the step times of {asked.target}", LENGTHS[-1]
    progress(f"timing {asked.target}")
    options = msgspec.structs.replace(
        asked.engine, max_running=1, kv_tokens=4096, prefix_sharing=False
    )
    engine = Engine.load(asked.target, options)
    about = engine.facts
    name = f"{asked.target} on this machine ({about.precision}, {about.threads} threads)"
    return prefill.measured(engine), name, about.max_model_len


def _notes(made: Shortened, cut: _Cut, scorer: Scorer, asked: Asked) -> list[str]:
    notes = []
    longest = max(one.kept for one in cut.each)
    if asked.rule.judged and scorer.llm.engine.facts.synthetic:
        notes.append(
            f"{scorer.model} has random weights: what it finds surprising means nothing, only "
            "how long it takes."
        )
    if asked.rule.tokens is not None and longest > asked.rule.tokens:
        notes.append(
            f"what is protected alone has {longest:,} tokens, more than the "
            f"{asked.rule.tokens:,} asked for; protect less with --first and --last."
        )
    if asked.cached > made.tokens:
        notes.append(f"of {asked.cached:,} cached tokens the prompt has only {made.tokens:,}.")
    return notes


def _conditions(scorer: Scorer, rule: Rule) -> dict[str, Any]:
    about = scorer.llm.engine.facts
    judge = f"{about.name}, {about.precision}, {about.threads} threads, {about.device}"
    return {
        "date": date.today().isoformat(),
        "penstock": penstock.__version__,
        "scorer": judge if rule.judged else "none",
        "counted in": f"tokens of {about.name}",
        "machine": platform.machine(),
    }
