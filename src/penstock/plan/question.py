"""What is asked of the planner: models, demand, limits, hardware, prices."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from penstock.plan.demand import Demand
from penstock.predict.architecture import Architecture
from penstock.predict.sheet import Device
from penstock.record.slo import Slo


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """A device, what it costs for an hour, and whose price that is."""

    device: Device
    usd_per_hour: float
    source: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Wanted: the cheapest fleet of these devices that keeps the limits under this demand.

    `weights` are the formats that may be used. `split` says whether fleets
    whose prompts are computed apart are looked at too. Times in seconds.
    """

    model: Architecture
    demand: Demand
    slos: Sequence[Slo]
    hardware: Sequence[Priced]
    weights: Sequence[str]
    split: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.slos:
            raise ValueError(
                "slo: no limit is given, so one slow device would do; write ttft.p95<1s"
            )
        longest = self.demand.prompt.mean + self.demand.output.mean
        if longest > self.model.positions:
            raise ValueError(
                f"prompt + output = {longest:,.0f} tokens; {self.model.name} holds "
                f"{self.model.positions:,}. Shorten one of them, or take a model of longer context."
            )


def priced(device: Device, usd_per_hour: float | None = None) -> Priced:
    """A device at a price of one's own, or at the median of those on demand of its sheet.

    Raises `ValueError` where the sheet has none, or the price is not above zero.
    """
    if usd_per_hour is not None:
        if not 0 < usd_per_hour < float("inf"):
            raise ValueError(f"price {device.name}={usd_per_hour:g} must be above zero")
        return Priced(device=device, usd_per_hour=usd_per_hour, source="as given")
    if not device.prices:
        raise ValueError(
            f"the sheet of {device.name} has no price; give one, as --price {device.name}=2.50"
        )
    # A spot price is for work that may be stopped at any time; a service is not.
    lasting = [price for price in device.prices if not price.terms.startswith("spot")]
    listed = sorted(lasting or device.prices, key=lambda price: price.usd_per_hour)
    middle = statistics.median_low([price.usd_per_hour for price in listed])
    chosen = next(price for price in listed if price.usd_per_hour == middle)
    return Priced(
        device=device,
        usd_per_hour=middle,
        source=(
            f"{chosen.provider}, {chosen.date}, {chosen.terms}; the median of {len(listed)} "
            f"listed from ${listed[0].usd_per_hour:g} to ${listed[-1].usd_per_hour:g}"
        ),
    )
