"""The least count that holds, found from a guess with few questions."""

import pytest

from penstock.plan.search import between, least


@pytest.mark.parametrize("truth", [1, 2, 3, 7, 19, 20, 64])
@pytest.mark.parametrize("guess", [1, 3, 7, 20, 64])
def test_least_is_found_wherever_it_begins(truth, guess):
    asked = []

    def holds(n):
        assert n not in asked, "asked twice"
        assert 1 <= n <= 64
        asked.append(n)
        return n >= truth

    assert least(holds, guess, 64) == truth
    assert len(asked) <= 2 * abs(truth - guess).bit_length() + 2


def test_a_good_guess_takes_two_questions():
    asked = []
    assert least(lambda n: asked.append(n) or n >= 5, 5, 20) == 5
    assert asked == [5, 4]


def test_none_where_nothing_holds():
    assert least(lambda n: False, 3, 10) is None
    assert least(lambda n: n >= 0, 0, 10, low=0) == 0


def test_what_one_carries_lies_within_what_was_shown():
    # Four carry 10/s and three do not: one carries from 2.5 to 3.33.
    assert between(3.0, 10, 4) == 3.0
    assert between(2.0, 10, 4) == 2.5
    assert 10 / 4 < between(9.0, 10, 4) < 10 / 3  # at 10/3 three would do
    assert between(20.0, 10, 1) == 20.0
