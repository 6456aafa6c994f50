"""Costs equal hand arithmetic, of a fleet and of an API."""

import pytest

from penstock.plan.api import api_request, beside, parse_api
from penstock.plan.cost import cost
from penstock.plan.demand import Demand, rate_of
from penstock.workload.lengths import parse_lengths
from tests.plan.paths import PRICES


def demand(rate=10.0, prompt="1500", output="300", **more):
    return Demand(rate=rate, prompt=parse_lengths(prompt), output=parse_lengths(output), **more)


def test_ten_thousand_users_six_times_an_hour():
    assert rate_of(10_000, 6) == pytest.approx(60_000 / 3600)


def test_cost_by_hand():
    # 8 devices at $2.50: $20 an hour, in which 10/s are 36,000 requests of 1,800 tokens.
    found = cost(20.0, demand())
    assert found.per_hour == 20
    assert found.per_month == pytest.approx(14_600)  # 730 hours
    assert found.per_request == pytest.approx(20 / 36_000)
    assert found.per_million_tokens == pytest.approx(20 / (36_000 * 1800) * 1e6)  # $0.309
    assert found.per_million_output == pytest.approx(20 / (36_000 * 300) * 1e6)
    assert found.per_million_input == pytest.approx(20 / (36_000 * 1500) * 1e6)


def test_nights_are_paid_for():
    # The busy hour is 1.8 times the mean, so that a request costs 1.8 times as much.
    even, wavy = cost(20.0, demand()), cost(20.0, demand(mean_share=1 / 1.8))
    assert wavy.per_request == pytest.approx(1.8 * even.per_request)
    assert wavy.per_month == even.per_month


def test_an_api_by_hand():
    # 1,500 tokens at $0.15 and 300 at $0.60 a million: 225 + 180 = 405 millionths of a dollar.
    _, price = parse_api("0.15,0.60")
    assert api_request(price, demand()) == pytest.approx(405e-6)
    _, price = parse_api("0.15,0.60,0.015")  # a third of the prompt cached: 150 + 7.5 + 180
    assert api_request(price, demand(cached=1 / 3)) == pytest.approx(337.5e-6)


def test_break_even_by_hand():
    _, price = parse_api("0.15,0.60")
    found = beside("x", price, demand(), fleet_per_hour=20.0, carries=15.0, smallest_per_hour=2.5)
    # $20 an hour buy 49,383 requests of $0.000405: 13.7 a second.
    assert found.break_even_rate == pytest.approx(20 / 405e-6 / 3600)
    assert found.smallest_rate == pytest.approx(2.5 / 405e-6 / 3600)
    assert found.reachable
    assert found.cheaper == "api"  # at 10/s
    assert found.api_per_month == pytest.approx(405e-6 * 10 * 3600 * 730)
    busier = beside(
        "x", price, demand(14), fleet_per_hour=20.0, carries=15.0, smallest_per_hour=2.5
    )
    assert busier.cheaper == "fleet"
    small = beside("x", price, demand(), fleet_per_hour=20.0, carries=12.0, smallest_per_hour=2.5)
    assert not small.reachable


def test_a_row_of_a_price_list():
    if not PRICES.exists():
        pytest.skip(f"{PRICES} is not here")
    name, price = parse_api(f"{PRICES}#gpt-4o-mini")
    assert name == "gpt-4o-mini"
    assert (price.input, price.output, price.cached, price.batch) == (0.15, 0.6, 0.075, 0.5)
    with pytest.raises(ValueError, match=r"no model 'gpt-4o-mimi'; near it: .*gpt-4o-mini"):
        parse_api(f"{PRICES}#gpt-4o-mimi")


@pytest.mark.parametrize("text", ["", "1", "1,2,3,4", "-1,2", "a,b", "1,inf", "nowhere.csv#x"])
def test_an_api_price_that_is_none(text):
    with pytest.raises(ValueError, match="IN,OUT"):
        parse_api(text)


def test_free_tokens_never_break_even():
    with pytest.raises(ValueError, match="zero"):
        beside(
            "x",
            parse_api("0,0")[1],
            demand(),
            fleet_per_hour=1,
            carries=1,
            smallest_per_hour=1,
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", -1),
        ("rate", 0),
        ("rate", float("nan")),
        ("mean_share", 1.5),
        ("mean_share", 0),
        ("batch", -0.1),
        ("cached", 2),
    ],
)
def test_a_demand_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        demand(**{field: value})


@pytest.mark.parametrize(("users", "per_hour", "named"), [(0, 1, "users"), (1, -1, "requests_per")])
def test_users_out_of_range_are_named(users, per_hour, named):
    with pytest.raises(ValueError, match=named):
        rate_of(users, per_hour)
