"""One prompt or chat made shorter, and whether that pays."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

import penstock
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.predict.stepfile import load_steptime
from penstock.prompts import breakeven
from penstock.prompts.breakeven import Bill, BreakEven, Times
from penstock.prompts.keep import Rule
from penstock.prompts.prefill import Prefill, measured, steady, told
from penstock.prompts.scorer import Scorer
from penstock.prompts.shorten import (
    Message,
    Piece,
    Shortened,
    may_shorten,
    shortened,
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
    tokens: int  # in the vocabulary of `model`; of a chat, of what may be shortened
    kept: int
    pieces: list[Piece]
    score_s: float
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
    (made,), score_s = _made([text], scorer, asked, progress)
    return _found(made, score_s, scorer, asked, progress)


def compress_chat(
    messages: Sequence[Message], scorer: Scorer, asked: Asked, progress: Progress
) -> Found:
    """Shorten what users say in a chat, each message by itself; the others stay as they are.

    Raises `ValueError` where there is nothing that may be shortened.
    """
    places = [at for at, message in enumerate(messages) if may_shorten(message)]
    if not places:
        raise ValueError("no message may be shortened: none is a user's text that is no JSON.")
    each, score_s = _made([messages[at]["content"] for at in places], scorer, asked, progress)
    made = with_contents(messages, {at: one.text for at, one in zip(places, each, strict=True)})
    whole = Shortened(
        text=json.dumps(made, ensure_ascii=False),
        tokens=sum(one.tokens for one in each),
        kept=sum(one.kept for one in each),
        pieces=[piece for one in each for piece in (*one.pieces, Piece("\n", 0.0, True))],
    )
    found = _found(whole, score_s, scorer, asked, progress)
    return msgspec.structs.replace(found, messages=made)


def _made(
    texts: Sequence[str], scorer: Scorer, asked: Asked, progress: Progress
) -> tuple[list[Shortened], float]:
    progress(f"reading with {scorer.model}")
    ids = [scorer.tokenizer.encode(text, special=False) for text in texts]
    began = time.perf_counter()
    surprises = scorer.surprise(ids)
    score_s = time.perf_counter() - began
    rated = zip(ids, surprises, strict=True)
    return [
        shortened(scorer.tokenizer, one, asked.rule, surprise, asked.protect)
        for one, surprise in rated
    ], score_s


def _found(
    made: Shortened,
    score_s: float,
    scorer: Scorer,
    asked: Asked,
    progress: Progress,
) -> Found:
    target, name, longest = _target(asked, progress)
    even, course = None, []
    if target is not None:
        progress(f"timing {scorer.model}")
        score = measured(scorer.llm.engine, rates=True)
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
        score_s=score_s,
        target=name,
        break_even=even,
        course=course,
        price=None if asked.price is None else str(asked.price),
        bill=None
        if asked.price is None
        else breakeven.bill(asked.price, made.tokens, made.kept, min(asked.cached, made.tokens)),
        notes=list(_notes(made, scorer, asked)),
        conditions=_conditions(scorer),
    )


def _target(asked: Asked, progress: Progress) -> tuple[Prefill | None, str | None, int]:
    """The prefill of what would read the prompt, what it is in words, tokens it can read."""
    if asked.tokens_per_s is not None:
        rate = asked.tokens_per_s
        return steady(rate), f"a prefill of {rate:,.0f} tokens/s", LENGTHS[-1]
    if asked.target is None:
        return None, None, 0
    if asked.target.endswith(".toml"):
        step = load_steptime(Path(asked.target))
        return told(step), f"the step times of {asked.target}", LENGTHS[-1]
    progress(f"timing {asked.target}")
    options = msgspec.structs.replace(
        asked.engine, max_running=1, kv_tokens=4096, prefix_sharing=False
    )
    engine = Engine.load(asked.target, options)
    about = engine.facts
    name = f"{asked.target} on this machine ({about.precision}, {about.threads} threads)"
    return measured(engine), name, about.max_model_len


def _notes(made: Shortened, scorer: Scorer, asked: Asked) -> list[str]:
    notes = []
    if scorer.llm.engine.facts.synthetic:
        notes.append(
            f"{scorer.model} has random weights: what it finds surprising means nothing, only "
            "how long it takes."
        )
    if asked.rule.tokens is not None and made.kept > asked.rule.tokens:
        notes.append(
            f"what is protected alone has {made.kept:,} tokens, more than the "
            f"{asked.rule.tokens:,} asked for; protect less with --first and --last."
        )
    if asked.cached > made.tokens:
        notes.append(f"of {asked.cached:,} cached tokens the prompt has only {made.tokens:,}.")
    return notes


def _conditions(scorer: Scorer) -> dict[str, Any]:
    about = scorer.llm.engine.facts
    return {
        "date": date.today().isoformat(),
        "penstock": penstock.__version__,
        "scorer": f"{about.name}, {about.precision}, {about.threads} threads, {about.device}",
        "counted in": f"tokens of {about.name}",
        "machine": platform.machine(),
    }
