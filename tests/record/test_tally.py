"""Votes and what fewer answers would have said, against counting every subset."""

from itertools import combinations

import numpy as np
import pytest

from penstock.record.tally import any_right, majority_right, tally


@pytest.mark.parametrize(
    ("answers", "winner", "share", "tied"),
    [
        ("abb", "b", 2 / 3, ()),
        ("ab", "a", 1 / 2, ("b",)),  # a tie: the first said
        ("cabbac", "c", 1 / 3, ("a", "b")),
        (("a", None, None), "a", 1 / 3, ()),  # the silent have no vote, and count
        ((None, None), None, 0, ()),
        ((), None, 0, ()),
    ],
)
def test_the_vote_its_share_and_its_ties(answers, winner, share, tied):
    counted = tally(answers)
    assert (counted.winner, counted.tied) == (winner, tied)
    assert counted.share == pytest.approx(share)
    assert counted.answers == len(answers)


def test_votes_are_given_most_first():
    assert list(tally("abcbcc").votes.items()) == [("c", 3), ("b", 2), ("a", 1)]


def test_any_right_is_the_share_of_subsets_with_a_right_one():
    right = [True, False, False, True, False, False]
    for k in range(1, 7):
        subsets = list(combinations(right, k))
        assert any_right(2, 6, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert any_right(3, 512, 512) == 1.0
    assert any_right(0, 512, 300) == 0.0


def exact(answers, truth, k):
    """The mean over all ordered subsets would do; with no ties order does not matter."""
    subsets = list(combinations(answers, k))
    return sum(tally(subset).winner == truth for subset in subsets) / len(subsets)


@pytest.mark.parametrize("answers", ["aabbbcc", "aaaabcd", "abbbbbb", ["a", None, None, "a", "b"]])
def test_the_vote_of_fewer_answers_is_estimated_without_bias(answers):
    """Against all subsets in both directions: where answers tie, each comes first half the time."""
    right = [answer == "a" for answer in answers]
    for k in range(1, len(answers) + 1):
        wanted = np.mean([exact(way, "a", k) for way in orders(list(answers))])
        found = majority_right(answers, right, k, rng=np.random.default_rng(k), shuffles=4000)
        # Standard error: at most sqrt(0.25 / 4000) = 0.008.
        assert found == pytest.approx(wanted, abs=0.035)


def orders(answers):
    """Many orders, so that the rule for ties is averaged over them."""
    rng = np.random.default_rng(1)
    return [[answers[i] for i in rng.permutation(len(answers))] for _ in range(150)]


def test_one_answer_is_right_as_often_as_answers_are():
    answers = ["a"] * 21 + ["b"] * 43
    right = [answer == "a" for answer in answers]
    found = majority_right(answers, right, 1, rng=np.random.default_rng(0), shuffles=1)
    assert found == 21 / 64


def test_nobody_says_anything_and_nothing_is_right():
    assert majority_right([None] * 4, [False] * 4, 3, rng=np.random.default_rng(0)) == 0.0


def test_the_same_seed_draws_the_same_subsets():
    answers, right = list("abcabcaab"), [c == "a" for c in "abcabcaab"]
    first, again, other = (
        majority_right(answers, right, 4, rng=np.random.default_rng(seed), shuffles=7)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_there_are_cannot_be_drawn(k):
    with pytest.raises(ValueError, match=f"{k} of 3 answers"):
        any_right(1, 3, k)
    with pytest.raises(ValueError, match="take 1 to 3"):
        majority_right("abc", [True] * 3, k, rng=np.random.default_rng(0))
