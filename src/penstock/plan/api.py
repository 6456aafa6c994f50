"""A hosted model's list price beside a fleet of one's own."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path

import msgspec

from penstock.plan.cost import MILLION
from penstock.plan.demand import HOUR_S, MONTH_H, Demand
from penstock.record.price import Price

FORMS = "IN,OUT[,CACHED] in dollars a million tokens (0.15,0.60), or FILE.csv#MODEL"
_IN, _OUT = "input_usd_per_mtok", "output_usd_per_mtok"
_CACHED, _BATCH = "cache_read_usd_per_mtok", "batch_output_usd_per_mtok"


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """Renting tokens against renting hardware.

    `break_even_rate` is the mean load, in requests/s over the month, at which
    the fleet costs as much as the tokens. Above it the fleet is cheaper, as far
    as it carries the load: `reachable` says whether it does within its limits.
    `smallest_rate` is the same for the smallest fleet of the kind, one replica.
    """

    name: str
    api_per_request: float
    api_per_month: float
    fleet_per_month: float
    break_even_rate: float
    break_even_a_month: float  # requests
    reachable: bool
    smallest_rate: float
    cheaper: str  # "fleet" or "api", at the demand


def api_request(price: Price, demand: Demand) -> float:
    """US dollars of a mean request."""
    prompt, output, cached = demand.prompt.mean, demand.output.mean, demand.cached
    paid = prompt * (1 - cached) * price.input + prompt * cached * price.cached
    return (paid + output * price.output) / MILLION


def beside(
    name: str,
    price: Price,
    demand: Demand,
    *,
    fleet_per_hour: float,
    carries: float,
    smallest_per_hour: float,
) -> Beside:
    """Set a fleet that costs so much an hour beside an API.

    `carries` is the mean rate that it takes within its limits, in requests/s.

    Raises `ValueError` for a price of zero, at which nothing can break even.
    """
    request = api_request(price, demand)
    if request <= 0:
        raise ValueError(
            f"the API price of {name} is zero; there is no load at which it breaks even"
        )
    even = fleet_per_hour / HOUR_S / request
    monthly = request * demand.a_month
    return Beside(
        name=name,
        api_per_request=request,
        api_per_month=monthly,
        fleet_per_month=fleet_per_hour * MONTH_H,
        break_even_rate=even,
        break_even_a_month=even * HOUR_S * MONTH_H,
        reachable=even <= carries,
        smallest_rate=smallest_per_hour / HOUR_S / request,
        cheaper="fleet" if fleet_per_hour * MONTH_H < monthly else "api",
    )


def parse_api(text: str) -> tuple[str, Price]:
    """Name and price from one of `FORMS`. Raises `ValueError` that names what is wrong."""
    path, hash_, model = text.partition("#")
    if hash_:
        return model, _listed(Path(path), model)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3):
        raise ValueError(f"cannot read the API price {text!r}; write {FORMS}")
    amounts = [
        _amount(name, part) for name, part in zip(("IN", "OUT", "CACHED"), parts, strict=False)
    ]
    cached = amounts[2] if len(amounts) == 3 else amounts[0]
    return f"an API at {text}", Price(input=amounts[0], output=amounts[1], cached=cached)


def _amount(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={text!r} of the API price is no number from zero; write {FORMS}")
    return value


def _listed(path: Path, model: str) -> Price:
    """A row of a price list in the columns of litellm's, as a CSV with dollars a million tokens."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row.get("model", ""): row for row in csv.DictReader(file)}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; write {FORMS}") from None
    if model not in rows:
        near = difflib.get_close_matches(model, rows, n=3, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"{path} has no model {model!r}{hint}")
    row = rows[model]
    if not row.get(_IN) or not row.get(_OUT):
        raise ValueError(f"{path}, {model}: {_IN} and {_OUT} must be given")
    input_, output = _amount(_IN, row[_IN]), _amount(_OUT, row[_OUT])
    cached = _amount(_CACHED, row[_CACHED]) if row.get(_CACHED) else input_
    batch = _amount(_BATCH, row[_BATCH]) / output if row.get(_BATCH) and output else None
    return Price(input=input_, output=output, cached=cached, batch=batch)
