"""What a fleet costs: by the hour, the month, the request and the million tokens."""

from __future__ import annotations

import msgspec

from penstock.plan.demand import HOUR_S, MONTH_H, Demand

MILLION = 1e6


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars of a fleet that is paid for all day.

    The whole is laid on all tokens, on the output tokens and on the input
    tokens: three views, not parts of a sum.
    """

    per_hour: float
    per_month: float
    per_request: float
    per_million_tokens: float
    per_million_output: float
    per_million_input: float


def cost(usd_per_hour: float, demand: Demand) -> Cost:
    """Cost of what the demand asks for, when its fleet costs so much an hour.

    One request costs the hour / (mean rate · 3600): nights count, in which the
    fleet stands idle but is paid for.
    """
    request = usd_per_hour / (demand.mean_rate * HOUR_S)
    return Cost(
        per_hour=usd_per_hour,
        per_month=usd_per_hour * MONTH_H,
        per_request=request,
        per_million_tokens=request / demand.tokens * MILLION,
        per_million_output=request / demand.output.mean * MILLION,
        per_million_input=request / demand.prompt.mean * MILLION,
    )
