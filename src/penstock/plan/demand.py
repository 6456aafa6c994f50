"""What users ask: how many requests in the busy hour, how long, and how a day goes."""

from __future__ import annotations

import math

import msgspec

from penstock.workload.lengths import Lengths

HOUR_S = 3600.0
MONTH_H = 8760 / 12  # hours in the mean month of a year of 365 days


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a fleet.

    `rate` is requests/s in the busy hour, for which the fleet is sized;
    `mean_share` is that share of it which comes on average, day and night.
    `batch` is the share of requests that may wait until the night, `cached` the
    share of a prompt that a prefix cache holds. Raises `ValueError` naming
    what is out of range.
    """

    rate: float
    prompt: Lengths
    output: Lengths
    mean_share: float = 1.0
    batch: float = 0.0
    cached: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate={self.rate:g} requests/s must be above zero")
        share("mean_share", self.mean_share, "1 is an even day")
        if self.mean_share == 0:
            raise ValueError("mean_share=0 would be no requests at all")
        share("batch_share", self.batch, "0 is none, 1 is all requests")
        share("cached", self.cached, "0 is no shared prefix, 1 are prompts known to the last token")

    @property
    def mean_rate(self) -> float:
        """Requests/s on average over a day."""
        return self.rate * self.mean_share

    @property
    def tokens(self) -> float:
        """Mean prompt and output tokens of a request together."""
        return self.prompt.mean + self.output.mean

    @property
    def a_month(self) -> float:
        """Requests in a month of `MONTH_H` hours."""
        return self.mean_rate * HOUR_S * MONTH_H

    def scaled(self, factor: float) -> Demand:
        """The same demand from so many times the users."""
        return msgspec.structs.replace(self, rate=self.rate * factor)


def rate_of(users: float, per_user_hour: float) -> float:
    """Requests/s of so many users who ask so often in the busy hour.

    Raises `ValueError` naming what is not above zero.
    """
    for name, value in (("users", users), ("requests_per_user_hour", per_user_hour)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value:g} must be above zero")
    return users * per_user_hour / HOUR_S


def share(name: str, value: float, meaning: str) -> None:
    """Raise `ValueError` unless the value is between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value:g} must lie between 0 and 1: {meaning}")
