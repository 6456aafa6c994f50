"""The pocket estimate: a thousand tokens at fifty a second are twenty seconds."""

import pytest

from penstock.plan.pocket import WARNING, parse_speed, pocket


def test_an_answer_takes_its_tokens_over_its_speed():
    assert pocket(50, 1000).answer_s == 20
    assert pocket(50, 200).answer_s == 4


def test_what_forty_at_once_ask_of_a_system():
    found = pocket(50, 1000, 40)
    assert found.answer_s == 20  # each; the speed is that of one of forty
    assert found.system_tokens_per_s == 2000
    assert found.requests_per_s == 2  # Little: 40 at once, 20 s each
    assert found.requests_per_hour == 7200
    assert found.one_after_another_s == 800
    assert found.kv_tokens == 20_000
    assert found.warning == WARNING
    assert "first token" in WARNING


@pytest.mark.parametrize(
    ("text", "speed"), [("50tps", 50), ("50", 50), ("12.5 tok/s", 12.5), ("20ms", 50)]
)
def test_speeds(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "-50tps", "0", "0ms", "50 km/h", "nan", "1e999"])
def test_a_speed_that_is_none(text):
    with pytest.raises(ValueError, match=r"cannot read the speed.*50tps"):
        parse_speed(text)


@pytest.mark.parametrize(
    ("speed", "output", "concurrent", "named"),
    [
        (0, 1, 1, "speed"),
        (1, 0, 1, "output"),
        (1, 1, -2, "concurrent"),
        (float("inf"), 1, 1, "speed"),
    ],
)
def test_what_is_not_above_zero_is_named(speed, output, concurrent, named):
    with pytest.raises(ValueError, match=f"{named} must be above zero"):
        pocket(speed, output, concurrent)
