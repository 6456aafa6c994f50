"""Prices as they are written, and costs worked out by hand."""

import pytest

from penstock.record.price import Price, cost, parse_price


def point(**changes):
    usual = {
        "output_throughput": {"value": 100.0, "ci95": [80.0, 125.0]},
        "input_throughput": {"value": 400.0, "ci95": None},
        "request_throughput": {"value": 2.0, "ci95": None},
        "tokens": {"prompt": 200_000, "cached": 50_000, "output": 50_000},
        "requests": 1000,
        "completed": 4000,  # the choices of these requests
        "quality": {"correct": 250, "correct_per_s": {"value": 0.5}},
    }
    return usual | changes


def test_hardware_by_the_hour():
    """3.6 an hour is 0.001 a second."""
    found = cost(parse_price("3.6/h"), point())
    assert found["output_tokens"] == pytest.approx(0.001 / 100 * 1e6)
    assert found["input_tokens"] == pytest.approx(0.001 / 400 * 1e6)
    assert found["total_tokens"] == pytest.approx(0.001 / 500 * 1e6)
    assert found["request"] == pytest.approx(0.0005)
    assert found["correct_answer"] == pytest.approx(0.002)
    assert found["output_tokens_ci95"] == pytest.approx([0.001 / 125 * 1e6, 0.001 / 80 * 1e6])
    assert found["batch"] is None


def test_tokens_by_the_million():
    found = cost(parse_price("in=0.2,cached=0.1,out=1,batch=0.5x"), point())
    paid = (0.15 * 0.2) + (0.05 * 0.1) + (0.05 * 1)  # millions x price
    assert found["output_tokens"] == pytest.approx(paid / 0.05)
    assert found["input_tokens"] == pytest.approx(paid / 0.2)
    assert found["total_tokens"] == pytest.approx(paid / 0.25)
    assert found["request"] == pytest.approx(paid / 1000)
    assert found["correct_answer"] == pytest.approx(paid / 250)
    assert found["batch"]["request"] == pytest.approx(paid / 2000)
    assert found["output_tokens_ci95"] is None


def test_cached_tokens_cost_as_much_as_others_unless_told():
    assert parse_price("in=0.2, out=1") == Price(input=0.2, cached=0.2, output=1.0)


def test_what_is_unknown_has_no_cost():
    unknown = point(
        output_throughput={"value": None, "ci95": None},
        tokens={"prompt": None, "cached": None, "output": None},
        quality=None,
    )
    hourly, listed = cost(parse_price("1/h"), unknown), cost(parse_price("in=1,out=1"), unknown)
    assert hourly["output_tokens"] is hourly["total_tokens"] is hourly["correct_answer"] is None
    assert hourly["request"] is not None
    assert set(listed.values()) == {listed["price"], None}
    idle = point(request_throughput={"value": 0.0, "ci95": None})
    assert cost(parse_price("1/h"), idle)["request"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read ''"),
        ("2.5", "cannot read '2.5'"),
        ("x/h", "the price of an hour must be a number from zero, not 'x'"),
        ("-1/h", "not '-1'"),
        ("inf/h", "not 'inf'"),
        ("in=1", "does not say out="),
        ("out=1", "does not say in="),
        ("in=1,out=two", "out must be a number from zero, not 'two'"),
        ("in=1,out=1,in=2", "names 'in' twice"),
        ("in=1,out=1,tax=2", "cannot read 'tax=2'"),
        ("in=1,out=1,batch=0.5", "write batch=0.5x"),
    ],
)
def test_what_cannot_be_read_is_named(text, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse_price(text)
