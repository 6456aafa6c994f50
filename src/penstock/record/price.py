"""What tokens, requests and correct answers cost at an operating point.

Amounts are in the currency of the price, whatever that is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

SECONDS, MILLION = 3600.0, 1e6
FORMS = "2.5/h (the hardware) or in=0.15,cached=0.075,out=0.6,batch=0.5x (a million tokens)"


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware by the hour, or tokens by the million.

    `cached` is for prompt tokens that came from the server's cache, by default
    as dear as others. `batch` is the factor for requests handed in as a batch.
    """

    per_hour: float | None = None
    input: float = 0.0  # a million tokens; so are the next two
    cached: float = 0.0
    output: float = 0.0
    batch: float | None = None

    def __str__(self) -> str:
        if self.per_hour is not None:
            return f"{self.per_hour:g} per hour"
        parts = f"{self.input:g} in, {self.cached:g} cached, {self.output:g} out"
        return f"{parts}, per million tokens"


def parse_price(text: str) -> Price:
    """Read a price written in one of `FORMS`.

    Raises `ValueError` that names the part which cannot be used.
    """
    if match := re.fullmatch(r"(?P<amount>[^/=,]+)/\s*h(our)?", text.strip()):
        return Price(per_hour=_amount("the price of an hour", match["amount"]))
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, amount = (piece.strip() for piece in part.partition("="))
        if not equals or name not in ("in", "cached", "out", "batch"):
            raise ValueError(f"cannot read {part.strip()!r} of the price {text!r}; write {FORMS}")
        if name in given:
            raise ValueError(f"the price names {name!r} twice")
        if name == "batch" and not amount.endswith("x"):
            raise ValueError(f"batch={amount} is no factor; write batch=0.5x for half the price")
        given[name] = _amount(name, amount.removesuffix("x") if name == "batch" else amount)
    for name in ("in", "out"):
        if name not in given:
            raise ValueError(f"the price {text!r} does not say {name}=...; write {FORMS}")
    return Price(
        input=given["in"],
        cached=given.get("cached", given["in"]),
        output=given["out"],
        batch=given.get("batch"),
    )


def _amount(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} must be a number from zero, not {text.strip()!r}")
    return value


def cost(price: Price, point: Mapping[str, Any]) -> dict[str, Any]:
    """What a point of the summary costs; see `by_the_hour` and `by_tokens`.

    Each amount is None where what it is divided by is unknown or zero.
    """
    costs = (
        by_tokens(price, point) if price.per_hour is None else by_the_hour(price.per_hour, point)
    )
    batch = None
    if price.batch is not None:
        batch = {key: None if x is None else x * price.batch for key, x in costs.items()}
    interval = None
    if price.per_hour is not None and (between := point["output_throughput"]["ci95"]):
        low, high = between
        second = price.per_hour / SECONDS * MILLION
        interval = [second / high, second / low] if low > 0 else None
    return {"price": str(price), **costs, "output_tokens_ci95": interval, "batch": batch}


def by_the_hour(per_hour: float, point: Mapping[str, Any]) -> dict[str, float | None]:
    """Cost of hardware that is paid for whether it is busy or not.

    With H per hour and a rate r per second inside the window, one thing costs
    H / 3600 / r. The whole hour is laid on the output tokens, on the input
    tokens, and on both together: three views, not parts of a sum. Failed and
    repeated requests take time, so what they cost is in all of these.
    """
    second = per_hour / SECONDS
    output, input_ = (point[f"{way}_throughput"]["value"] for way in ("output", "input"))
    total = None if output is None or input_ is None else output + input_
    return {
        "output_tokens": _over(second * MILLION, output),
        "input_tokens": _over(second * MILLION, input_),
        "total_tokens": _over(second * MILLION, total),
        "request": _over(second, point["request_throughput"]["value"]),
        "correct_answer": _over(second, _correct(point, "correct_per_s")),
    }


def by_tokens(price: Price, point: Mapping[str, Any]) -> dict[str, float | None]:
    """Cost at a price list: of the point's finished requests, wherever they lie.

    Paid are (prompt - cached) x in + cached x cached + output x out. That sum is
    laid on the output tokens, on the input tokens, on both, on the finished
    requests (of several choices too each one once), and on the correct answers;
    failed requests are taken to be free, wrong answers are not. Where the server
    does not tell cached tokens, all prompt tokens are paid in full.
    """
    tokens = point["tokens"]
    prompt, output, cached = tokens["prompt"], tokens["output"], tokens["cached"] or 0
    if prompt is None or output is None:
        return dict.fromkeys(
            ("output_tokens", "input_tokens", "total_tokens", "request", "correct_answer")
        )
    paid = (prompt - cached) * price.input + cached * price.cached + output * price.output
    return {
        "output_tokens": _over(paid, output),
        "input_tokens": _over(paid, prompt),
        "total_tokens": _over(paid, prompt + output),
        "request": _over(paid / MILLION, point["requests"]),
        "correct_answer": _over(paid / MILLION, _correct(point, "correct")),
    }


def _correct(point: Mapping[str, Any], key: str) -> float | None:
    """A count or a rate of correct answers, of a point whose answers were checked."""
    quality: Mapping[str, Any] = point.get("quality") or {}
    found = quality.get(key)
    return found.get("value") if isinstance(found, Mapping) else found


def _over(amount: float, count: float | None) -> float | None:
    return amount / count if count else None
