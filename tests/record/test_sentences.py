"""The sentences say the numbers, with their conditions, and no more than the samples allow."""

import pytest

from penstock.record.run import Role
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


def loaded(users, rate, role=Role.MEASURED, valid=True):
    made = point()
    made["load"] = {"kind": "closed", "concurrency": users, "rate": None}
    made["output_throughput"]["value"] = rate
    made["role"], made["verdict"] = role, {"valid": valid, "reasons": []}
    return made


def test_what_the_system_gets_is_of_no_point_past_saturation_and_of_none_that_is_invalid():
    points = [
        loaded(1, 50.0),
        loaded(4, 150.0),
        loaded(8, 170.0, valid=False),
        loaded(16, 200.0, Role.OVERLOAD),
        loaded(32, 210.0, Role.OVERLOAD, valid=False),
    ]
    system = sentences(points)[1]
    assert system.startswith("With 4 at once, the system delivers 150 output tokens/s")
    assert system.endswith(
        "(Left out: 2 operating points past saturation, one operating point INVALID.)"
    )
    assert "Left out" not in sentences(points[:2])[1]


def test_where_no_point_is_valid_the_best_that_is_not_past_saturation_is_told():
    points = [loaded(1, 50.0, valid=False), loaded(4, 150.0, valid=False)]
    over = loaded(16, 200.0, Role.OVERLOAD)
    assert sentences([*points, over])[1].startswith("With 4 at once")
    assert sentences([over])[1].startswith("With 16 at once")


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
