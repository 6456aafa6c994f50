"""What prompt compression gains in time, and what it loses in answers.

    python -m benchmarks.prompt_compression speed --out benchmarks/results/prompt_speed.json
    python -m benchmarks.prompt_compression quality --out benchmarks/results/prompt_quality.json

`speed`: random weights of two real shapes. The break-even is predicted from steps timed
before and after on other prompts, and measured as a whole: rating, choosing, and the shorter
prefill against the long one, in turn. `quality`: the embedded model on held-out
source, its draft as the judge; begun again with the same --out it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.common import conditions, publish
from penstock.compress import corpus
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions
from penstock.prompts.breakeven import least_tokens, most_kept
from penstock.prompts.keep import Rule, Way, kept
from penstock.prompts.parts import By, Parts
from penstock.prompts.prefill import ANSWERED, MeasuredPrefill, Prefill, measured
from penstock.prompts.scorer import Scorer
from penstock.prompts.shorten import kept_ids
from penstock.prompts.surprise import ASKED
from penstock.record.stats import t_interval

SHARES = (0.5, 0.7, 0.8, 0.9)  # kept, of the measured grid
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
LENGTH_SHARES = (0.5, 0.7, 0.8)  # whose shortest paying prompt is looked for

CONTEXT, CONTINUED = 1024, 128  # tokens: what is shortened, what is then predicted
PASSAGE, CUE = 64, 16  # of the recall: repeated at the end, and how much of it is given
KEPT = (0.75, 0.5, 0.35, 0.25)
TAIL = 64  # tokens at the end that every way but the cuts protects
WAYS: dict[str, tuple[Way, By, int | None]] = {
    "surprise, lines": ("surprise", "line", 256),
    "surprise, lines, one budget": ("surprise", "line", None),
    "surprise, words": ("surprise", "word", None),
    "surprise, tokens": ("surprise", "token", None),
    "random lines": ("random", "line", None),
    "random words": ("random", "word", None),
    "random tokens": ("random", "token", None),
    "stop words first": ("stopwords", "word", None),
    "cut the beginning": ("end", "token", None),
    "cut the end": ("start", "token", None),
    "cut the middle": ("ends", "token", None),
}


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Predicted and measured break-even, as shares at each length and lengths at each share."""
    options = EngineOptions(
        weights=given.weights, max_running=1, kv_tokens=2 * max(LENGTHS), prefix_sharing=False
    )
    target, scorer = LLM(given.target, options), Scorer(given.scorer, options)

    def steps() -> tuple[MeasuredPrefill, MeasuredPrefill]:
        return measured(target.engine, rounds=2), measured(scorer.llm.engine, rates=True, rounds=2)

    # Before and after: a machine that others share is not as fast all the time.
    before = steps()
    seen = {n: _timed(target, scorer, n, given.rounds) for n in LENGTHS if n <= given.longest}
    after = steps()
    prefill, rates = (_mean(*pair) for pair in zip(before, after, strict=True))
    shares = {}
    for n, times in seen.items():
        found = _zero(SHARES, [_saved(times, share) for share in SHARES])
        said = most_kept(prefill, rates, n)
        shares[str(n)] = _beside(said, found) | {
            "full_s": _both(prefill(n), times["full"]),
            "rating_s": _both(rates(n), times["rate"]),
            "half_s": _both(prefill(n // 2), times["0.5"]),
        }
    lengths = {}
    for share in LENGTH_SHARES:
        found = _zero(np.log(list(seen)).tolist(), [-_saved(t, share) for t in seen.values()])
        said = least_tokens(prefill, rates, share)
        lengths[str(share)] = _beside(said, None if found is None else float(np.exp(found)))
    return {
        "conditions": conditions(target.engine)
        | {
            "precision": target.engine.facts.precision,
            "scorer": given.scorer,
            "scorer_precision": scorer.llm.engine.facts.precision,
            "rounds": given.rounds,
            "prompts": "random tokens, one request at a time, nothing cached",
        },
        "most_kept": shares,
        "least_tokens": lengths,
    }


def _mean(one: Prefill, other: Prefill) -> Prefill:
    return lambda tokens: (one(tokens) + other(tokens)) / 2


def _timed(target: LLM, scorer: Scorer, tokens: int, rounds: int) -> dict[str, float]:
    """Median seconds: full prefill, rating and choosing, and the prefill of each share."""
    draw = random.Random(tokens)
    found: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        found.setdefault(name, []).append(time.perf_counter() - began)

    for _ in range(rounds):
        prompt = [draw.randrange(target.engine.facts.vocab_size) for _ in range(tokens)]

        def rate(prompt: list[int] = prompt) -> list[int]:
            (surprise,) = scorer.surprise([prompt])
            return kept_ids(scorer.tokenizer, prompt, Rule(first=0, last=0), surprise)

        clock("full", lambda p=prompt: target.generate([p], ANSWERED))  # type: ignore[misc]
        clock("rate", rate)
        for share in SHARES:
            short = prompt[: max(1, round(share * tokens))]
            clock(str(share), lambda p=short: target.generate([p], ANSWERED))  # type: ignore[misc]
    return {name: median(times) for name, times in found.items()}


def _saved(times: dict[str, float], share: float) -> float:
    return times["full"] - times["rate"] - times[str(share)]


def _zero(at: Sequence[float], saved: Sequence[float]) -> float | None:
    """Where a line through the points falls through zero, last; None if nowhere."""
    points = list(zip(at, saved, strict=True))
    for (x, y), (x2, y2) in zip(points[-2::-1], points[:0:-1], strict=True):
        if y > 0 >= y2:
            return float(x + (x2 - x) * y / (y - y2))
    return None


def _beside(said: float | None, found: float | None) -> dict[str, Any]:
    error = None if said is None or found is None else round(said / found - 1, 4)
    return {"predicted": said and round(said, 4), "measured": found and round(found, 4),
            "error": error}  # fmt: skip


def _both(said: float, found: float) -> dict[str, float]:
    return {"predicted": round(said, 4), "measured": round(found, 4)}


def quality(given: argparse.Namespace) -> dict[str, Any]:
    """Loss of what follows a context that was shortened, by way and share."""
    result: dict[str, Any] = {"rows": {}}
    if given.out is not None and given.out.exists():
        result = json.loads(given.out.read_text())
    target = LLM("embedded", EngineOptions(prefix_sharing=False))
    scorer = Scorer("embedded-draft")
    for case, texts in (("continuation", continuations), ("recall", recalls)):
        rows = list(texts(target, given.texts))
        surprises = scorer.surprise([context for context, _, _ in rows])
        known = result["rows"].setdefault(case, {})
        if "whole" not in known:
            known["whole"] = losses(target, rows, [np.ones(len(c), bool) for c, _, _ in rows])
        for name, keep in product(WAYS, KEPT):
            if str(keep) in known.setdefault(name, {}):
                continue
            stays = [
                kept(Parts(target.tokenizer, context, WAYS[name][1]), rule(name, keep, at), rated)
                for at, ((context, _, _), rated) in enumerate(zip(rows, surprises, strict=True))
            ]
            known[name][str(keep)] = losses(target, rows, stays) | {
                "share": round(fmean(float(one.mean()) for one in stays), 4)
            }
            _save(result, given.out)
            print(f"{case}, {name}, {keep}: {fmean(known[name][str(keep)]['losses']):.4f}")
    facts = conditions(target.engine)
    result["conditions"] = facts | {
        "scorer": "embedded-draft",
        "texts": given.texts,
        "context_tokens": CONTEXT,
        "continued_tokens": CONTINUED,
        "passage_tokens": PASSAGE,
        "protected_at_end": TAIL,
    }
    result["summary"] = {case: summary(known) for case, known in result["rows"].items()}
    return result


Row = tuple[list[int], list[int], int]  # context, what follows, tokens of that not predicted


def continuations(llm: LLM, count: int) -> Iterator[Row]:
    """Held-out source and what follows it."""
    for row in corpus.held_out(llm.tokenizer.encode, CONTEXT + CONTINUED - 1, count).tolist():
        yield row[:CONTEXT], row[CONTEXT:], 0


def recalls(llm: LLM, count: int) -> Iterator[Row]:
    """Held-out source whose first lines come again at its end: some are given, the rest asked."""
    for row in corpus.held_out(llm.tokenizer.encode, CONTEXT - 1, count).tolist():
        yield row, row[:PASSAGE], CUE


def rule(name: str, keep: float, seed: int) -> Rule:
    """How a way keeps a share of a context; the cuts protect nothing else."""
    way, by, segment = WAYS[name]
    last = 0 if way in ("start", "end", "ends") else TAIL
    budget = int(keep * CONTEXT)
    return Rule(tokens=budget, way=way, by=by, segment=segment, seed=seed, first=0, last=last)


def losses(llm: LLM, rows: Sequence[Row], stays: Sequence[Any]) -> dict[str, Any]:
    """Mean nats a token of what follows each context, given what stays of it."""
    prompts = [
        [context[at] for at in np.flatnonzero(stay)] + then
        for (context, then, _), stay in zip(rows, stays, strict=True)
    ]
    found = []
    for (_, then, given), answer in zip(rows, llm.generate(prompts, ASKED), strict=True):
        assert answer.prompt_logprobs is not None
        asked = answer.prompt_logprobs[given - len(then) :]
        found.append(-fmean(one.logprob for one in asked if one is not None))
    return {"losses": [round(loss, 5) for loss in found]}


def summary(known: dict[str, Any]) -> dict[str, Any]:
    """Of each way and share: how much more is lost than with the whole, and than by lines."""
    whole = np.array(known["whole"]["losses"])
    found: dict[str, Any] = {"whole": round(float(whole.mean()), 4)}
    for name, keep in product(WAYS, map(str, KEPT)):
        mine = np.array(known[name][keep]["losses"])
        ours = np.array(known["surprise, lines"][keep]["losses"])
        found.setdefault(name, {})[keep] = {
            "share": known[name][keep]["share"],
            **_interval("rise", mine - whole),
            **_interval("over_ours", mine - ours),
        }
    return found


def _interval(name: str, values: Any) -> dict[str, Any]:
    ends = t_interval(values.tolist())
    return {
        name: round(float(values.mean()), 4),
        f"{name}_ci95": ends and [round(end, 4) for end in ends],
    }


def _save(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("speed", "quality"))
    parser.add_argument("--target", default="qwen3-0.6b")
    parser.add_argument("--scorer", default="qwen3-0.6b-draft")
    parser.add_argument("--weights", default="plain", choices=("plain", "int8"))
    parser.add_argument("--longest", type=int, default=max(LENGTHS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=150, help="rows of held-out text")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    publish((speed if given.part == "speed" else quality)(given), given.out)


if __name__ == "__main__":
    main()
