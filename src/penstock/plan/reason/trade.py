"""Accuracy against time and cost, from one set of samples.

The most that were drawn of each question tell what fewer would have said: of k
samples without replacement, `penstock.record.tally` gives the chance that the vote
is right, and that one of them is. So the points of a curve share their samples,
and differences between them are taken question by question.

Time and cost of an engine that is asked about, rather than measured, follow from
its speed S: first token + (n · tokens of an answer - 1) / S. S is what one question
gets, all its samples together: eight side by side at 100 tokens/s each are 800.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec
import numpy as np

from penstock.engine.request import ModelFacts
from penstock.plan.reason.ask import Answers, Timed
from penstock.record.price import MILLION, SECONDS, Price
from penstock.record.quality import wilson
from penstock.record.record import Record
from penstock.record.stats import Interval, t_interval
from penstock.record.tally import any_right, majority_right

MEASURED = "this engine"


class Share(msgspec.Struct, frozen=True):
    """A share of questions with its 95 % interval over questions (Wilson)."""

    value: float
    ci95: Interval | None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers with so many samples of each question.

    `any_right` is what a verifier that never errs would make of them: the upper
    curve of all ways to choose. `gain` is the vote's over that of the fewest
    samples, `over_greedy` that over one greedy answer, in shares of questions,
    with Student's intervals over questions.
    """

    samples: int
    majority: Share
    any_right: Share
    gain: float
    gain_ci95: Interval | None
    over_greedy: float
    over_greedy_ci95: Interval | None
    output_tokens: float  # a question's, all samples together


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Mean time of one question with so many samples, and its cost in the price's currency."""

    samples: int
    seconds: float
    seconds_ci95: Interval | None  # over questions; None of an engine that was not measured
    cost: float | None


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What answering takes on one engine.

    `tokens_per_s` is what one question gets, here with the fewest samples.
    Measured points that no question took part in are missing.
    """

    name: str
    measured: bool
    tokens_per_s: float
    first_s: float  # to a question's first token
    spent: list[Spent]

    def within(self, seconds: float) -> Spent | None:
        """The most samples that fit in a time; None if none do."""
        return next((s for s in reversed(self.spent) if s.seconds <= seconds * 1.000001), None)


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `penstock reason` tells."""

    model: ModelFacts
    tasks: str
    questions: int
    asked: int  # questions that were to be asked; more where it was interrupted
    temperature: float
    seed: int
    drawn: int  # samples of each question, of which fewer are taken at random
    prompt_tokens: float  # mean of a question
    answer_tokens: float  # mean of a sample
    greedy: Share
    quality: list[Quality]
    engines: list[Engine]
    price: str | None

    @property
    def widest(self) -> Engine:
        """The engine with the most points: all of them, unless none but this one was asked for."""
        return max(self.engines, key=lambda engine: len(engine.spent))

    @property
    def cost_alike(self) -> bool:
        """Whether a question costs the same on every engine, as where its tokens are paid."""
        costs = {(spent.samples, spent.cost) for engine in self.engines for spent in engine.spent}
        return len(costs) == len(self.widest.spent)

    def at(self, samples: int) -> Quality:
        """The quality with so many samples."""
        return next(q for q in self.quality if q.samples == samples)


def trade(
    answers: Answers,
    speeds: Sequence[float] = (),
    *,
    price: Price | None = None,
    first_s: float | None = None,
) -> Trade:
    """What the answers come to, on the engine that gave them and on others.

    `speeds` are tokens/s. Their first token takes `first_s`; if None, as much less
    than here as they are faster. Raises `ValueError` with no question answered.
    """
    groups = list(answers.samples.values())
    if not groups:
        raise ValueError("no question was answered; let it run longer.")
    asking = answers.asking
    prompt = fmean(group[0].prompt_tokens or 0 for group in groups)
    answer = fmean(record.output_tokens or 0 for group in groups for record in group)

    def spent(n: int, seconds: float, ci95: Interval | None = None) -> Spent:
        cost = _cost(price, seconds, prompt, n * answer)
        return Spent(samples=n, seconds=seconds, seconds_ci95=ci95, cost=cost)

    here = _measured(answers, spent)
    others = []
    for speed in sorted(speeds):
        first = here.first_s * here.tokens_per_s / speed if first_s is None else first_s
        taken = [spent(n, first + max(n * answer - 1, 0) / speed) for n in asking.samples]
        name = f"{speed:,g} tokens/s"
        others.append(
            Engine(name=name, measured=False, tokens_per_s=speed, first_s=first, spent=taken)
        )
    return Trade(
        model=answers.model,
        tasks=answers.tasks,
        questions=len(groups),
        asked=asking.questions,
        temperature=asking.temperature,
        seed=asking.seed,
        drawn=asking.most,
        prompt_tokens=prompt,
        answer_tokens=answer,
        greedy=_share([bool(record.correct) for record in answers.greedy]),
        quality=_quality(answers, answer),
        engines=[here, *others],
        price=None if price is None else str(price),
    )


def _quality(answers: Answers, answer: float) -> list[Quality]:
    groups, asking = list(answers.samples.values()), answers.asking
    greedy = np.array([bool(record.correct) for record in answers.greedy], dtype=float)
    found: list[Quality] = []
    fewest = np.zeros(0)
    for n in asking.samples:
        votes = np.array([_vote(group, n, (asking.seed, i)) for i, group in enumerate(groups)])
        anyone = [any_right(sum(bool(r.correct) for r in g), len(g), n) for g in groups]
        fewest = votes if not found else fewest
        gains, over = votes - fewest, votes - greedy
        found.append(
            Quality(
                samples=n,
                majority=_share(votes.tolist()),
                any_right=_share(anyone),
                gain=float(gains.mean()),
                gain_ci95=t_interval(gains.tolist()) if n > asking.samples[0] else None,
                over_greedy=float(over.mean()),
                over_greedy_ci95=t_interval(over.tolist()),
                output_tokens=n * answer,
            )
        )
    return found


def _vote(group: Sequence[Record], n: int, seed: tuple[int, int]) -> float:
    return majority_right(
        [record.answer for record in group],
        [bool(record.correct) for record in group],
        n,
        rng=np.random.default_rng(seed),
    )


def _measured(answers: Answers, spent: Callable[..., Spent]) -> Engine:
    by_number: dict[int, list[Timed]] = {}
    for timed in answers.timed:
        by_number.setdefault(timed.samples, []).append(timed)
    fewest = by_number[min(by_number)]
    taken = {n: [timed.seconds for timed in by_number[n]] for n in sorted(by_number)}
    return Engine(
        name=MEASURED,
        measured=True,
        tokens_per_s=sum(t.tokens for t in fewest) / sum(t.seconds for t in fewest),
        first_s=fmean(timed.first_s for timed in fewest),
        spent=[spent(n, fmean(seconds), t_interval(seconds)) for n, seconds in taken.items()],
    )


def _cost(price: Price | None, seconds: float, prompt: float, output: float) -> float | None:
    """Of one question: the hardware for as long as it takes, or its tokens, the prompt once."""
    if price is None:
        return None
    if price.per_hour is not None:
        return price.per_hour * seconds / SECONDS
    return (prompt * price.input + output * price.output) / MILLION


def _share(chances: Sequence[float]) -> Share:
    return Share(fmean(chances), wilson(sum(chances), len(chances)))
