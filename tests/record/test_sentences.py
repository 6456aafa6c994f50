"""The sentences say the numbers, with their conditions, and no more than the samples allow."""

import pytest

from penstock.record.sentences import number, seconds, sentences
from penstock.record.summary import summarise
from tests.record.test_run import make_run


def point(n=300, **conditions):
    run = make_run()
    run.points[0].conditions = conditions
    made = summarise(run)["points"][0]
    made["ttft_from_schedule"] |= {"n": n, "p50": 0.05, "p90": 0.5, "p99": 1.5}
    return made


def test_model_and_conditions_are_named():
    user, _, _ = sentences([point(model="m", precision="bf16", hardware="a CPU, 2 cores")])
    assert user.startswith("With 4 at once, one user of m (in bf16 on a CPU, 2 cores) gets 50 tok")
    user, _, _ = sentences([point(model="m", precision="unknown", hardware="unknown")])
    assert "one user of m gets" in user


@pytest.mark.parametrize(
    ("n", "says"),
    [
        (299, "99 in 100 users see the first token within 1.5 s"),
        (298, "9 in 10 users see the first token within 500 ms"),
        (28, "half of the users see the first token within 50 ms"),
    ],
)
def test_tails_are_claimed_only_with_enough_samples(n, says):
    assert says in sentences([point(n=n)])[1]


def test_four_samples_claim_nothing_of_the_wait():
    assert "users see" not in sentences([point(n=4)])[1]


def test_the_limit():
    made = point()
    made["limit"] = {
        "fraction": 0.256,
        "output_throughput": 1234.5,
        "binds": "memory bandwidth",
        "basis": "a long story",
    }
    assert sentences([made])[2] == (
        "That is 25.6 % of the 1,230 tokens/s that this hardware's memory bandwidth "
        "allows at that load."
    )
    made["limit"]["fraction"] = None
    assert sentences([made])[2].endswith("is not known: a long story.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,230"), (98765, "98,800"), (45.6, "45.6"), (0.789, "0.789"), (99.96, "100")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_durations():
    assert (seconds(0.0213), seconds(1.5), seconds(None)) == ("21.3 ms", "1.5 s", "an unknown time")
