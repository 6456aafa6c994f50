"""Several models under one demand, each with its plan."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.plan.answer import Answer, answer
from penstock.plan.basis import Steps
from penstock.plan.curve import Curve
from penstock.plan.options import NoFleet
from penstock.plan.question import Question
from penstock.record.price import Price


class Plans(msgspec.Struct, frozen=True, kw_only=True):
    """A plan for each model that some fleet can serve, in the order asked; others with the reason.

    `beside` holds a sentence on each model but the dearest.
    """

    answers: list[Answer]
    unserved: dict[str, str]
    beside: list[str]


def plan_all(
    questions: Sequence[Question],
    steps: Steps,
    *,
    prices: Sequence[tuple[str, Price]],
    curve: Curve | None,
    startup_s: float,
) -> Plans:
    """Answer every question; see `answer`. Raises `NoFleet` where none has an answer."""
    answers, unserved = [], {}
    for question in questions:
        try:
            answers.append(answer(question, steps, prices=prices, curve=curve, startup_s=startup_s))
        except NoFleet as error:
            unserved[question.model.name] = str(error)
    if not answers:
        raise NoFleet("; ".join(unserved.values()))
    return Plans(answers=answers, unserved=unserved, beside=beside(answers))


def beside(answers: Sequence[Answer]) -> list[str]:
    """What each model costs of the dearest one's, in words."""
    by_cost = sorted(answers, key=lambda each: each.fleets[0].cost.per_month)
    dearest = by_cost[-1].fleets[0].cost.per_month
    return [
        f"{each.model} costs {each.fleets[0].cost.per_month / dearest:.0%} of {by_cost[-1].model} "
        f"(${each.fleets[0].cost.per_request * 1000:.3g} against "
        f"${by_cost[-1].fleets[0].cost.per_request * 1000:.3g} a thousand requests). Whether its "
        "answers do is for a test of quality to say, not for this plan."
        for each in by_cost[:-1]
    ]
