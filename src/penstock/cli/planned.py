"""From the options of `penstock plan` as they were written to the questions that it answers."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.parse import read

if TYPE_CHECKING:
    from penstock.plan.curve import Curve
    from penstock.plan.demand import Demand
    from penstock.plan.models import Plans
    from penstock.plan.pocket import Pocket
    from penstock.plan.question import Priced

Params = Mapping[str, Any]  # of the command, by name

_LOAD = "users requests_per_user_hour rate"
_PLAN = f"""
    model {_LOAD} prompt slo hardware price weights cached whole steptime day batch_share trace
    startup api_price seed fleet html png
"""


def refuse_idle(params: Params, given: Set[str]) -> None:
    """Refuse what would change nothing, what excludes each other, and what is missing."""
    quick, trace = params["quick"] is not None, params["trace"] is not None
    for idle, why, names in (
        (quick, "belongs to a plan, without --quick", _PLAN),
        (not quick, "belongs to --quick", "concurrent"),
        (trace, "is set by the trace", f"{_LOAD} day"),
        (params["users"] is None, "belongs to --users", "requests_per_user_hour"),
        (params["users"] is not None, "is what --users say", "rate"),
        (not trace and params["day"] is None, "belongs to --trace or --day", "startup"),
    ):
        for name in names.split():
            if idle and name in given:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(f"this {why}; leave it out", param_hint=option)
    if quick:
        return
    for absent, option, remedy in (
        (
            not params["model"],
            "--model",
            "name one (or ask for the pocket estimate: --quick 50tps --output 1000)",
        ),
        (
            not trace and params["users"] is None and params["rate"] is None,
            "--users, --rate or --trace",
            "say how much is asked, as --users 10000 --requests-per-user-hour 6",
        ),
        (not trace and params["prompt"] is None, "--prompt", "say how long prompts are"),
        (not trace and params["output"] is None, "--output", "say how long answers are"),
    ):
        if absent:
            raise typer.BadParameter(f"is missing; {remedy}", param_hint=option)
    if params["fleet"] is not None and len(_listed(params["model"])) > 1:
        raise typer.BadParameter("holds one fleet; name one --model", param_hint="--fleet")


def pocket(params: Params) -> Pocket:
    """The pocket estimate."""
    from penstock.plan.pocket import parse_speed
    from penstock.plan.pocket import pocket as estimate

    output = params["output"] or "1000"
    if not output.isdigit():
        raise typer.BadParameter(f"{output!r} is no count of tokens", param_hint="--output")
    return estimate(
        read("--quick", parse_speed, params["quick"]), int(output), params["concurrent"]
    )


def plans(params: Params) -> Plans:
    """A plan for each model. Raises `ValueError` for what cannot be, and `NoFleet`."""
    from penstock.plan.api import parse_api
    from penstock.plan.basis import Steps
    from penstock.plan.models import plan_all
    from penstock.plan.question import Question
    from penstock.predict.architecture import architecture, width_of
    from penstock.record.slo import parse_slos

    demand, curve = _demand(params)
    questions = []
    for name in _listed(params["model"]):
        model = read("--model", architecture, name)
        narrower = ",fp8" if width_of(model.weights, "weights") > width_of("fp8", "") else ""
        formats = (params["weights"] or model.weights + narrower).split(",")
        questions.append(
            Question(
                model=model,
                demand=demand,
                slos=read("--slo", parse_slos, params["slo"]),
                hardware=_hardware(params),
                weights=tuple(dict.fromkeys(part.strip() for part in formats)),
                split=not params["whole"],
                seed=params["seed"],
            )
        )
    return plan_all(
        questions,
        Steps(params["steptime"]),
        prices=[read("--api-price", parse_api, text) for text in params["api_price"] or ()],
        curve=curve,
        startup_s=params["startup"],
    )


def _demand(params: Params) -> tuple[Demand, Curve | None]:
    """What is asked, and the day over which it is."""
    from penstock.plan.curve import day_of, read_curve
    from penstock.plan.demand import Demand, rate_of
    from penstock.workload.lengths import parse_lengths

    share, curve, depth = 1.0, None, params["day"] or 0.0
    if params["trace"] is not None:
        curve = read("--trace", read_curve, params["trace"])
        rate, share = curve.peak, curve.mean / curve.peak
    else:
        rate = params["rate"]
        if rate is None:
            rate = rate_of(params["users"], params["requests_per_user_hour"])
    lengths = {}
    for name in ("prompt", "output"):
        told = getattr(curve, name) if curve else None
        if params[name] is not None:
            told = read(f"--{name}", parse_lengths, params[name])
        if told is None:
            raise typer.BadParameter(
                "is missing; this trace has no lengths", param_hint=f"--{name}"
            )
        lengths[name] = told
    demand = Demand(
        **lengths,
        rate=rate,
        mean_share=share / (1 + depth) if 0 <= depth <= 1 else share,
        batch=params["batch_share"],
        cached=params["cached"],
    )
    if curve is None and (params["day"] is not None or demand.batch):
        curve = day_of(rate, depth)
    return demand, curve


def _hardware(params: Params) -> list[Priced]:
    from penstock.plan.question import priced
    from penstock.predict.sheet import device

    prices: dict[str, float] = {}
    for text in params["price"] or ():
        name, _, amount = text.partition("=")
        try:
            prices[name.strip()] = float(amount)
        except ValueError:
            raise typer.BadParameter(
                f"cannot read {text!r}; write DEVICE=DOLLARS, as h100=2.50", param_hint="--price"
            ) from None
    found = [read("--hardware", device, name) for name in _listed([params["hardware"]])]
    for name in prices:
        if name not in {one.name for one in found}:
            raise typer.BadParameter(
                f"{name} is not among --hardware {params['hardware']}", param_hint="--price"
            )
    return [priced(one, prices.get(one.name)) for one in found]


def _listed(texts: list[str] | None) -> list[str]:
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]
