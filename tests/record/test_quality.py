"""Votes, accuracy and right answers per second, on records made by hand."""

import msgspec
import pytest

from penstock.record.quality import majority, over_repeats, quality, votes, wilson
from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point
from penstock.record.steady import whole_run

S = 1_000_000_000


def record(task, sample, answer, right="yes", at_s=1.0, **given):
    given = {"outcome": Outcome.FINISHED, "correct": answer == right} | given
    end = int(at_s * S)
    return Record(
        request_id=f"{task}.{sample}",
        task=task,
        sample=sample,
        answer=answer,
        sched_ns=0,
        last_ns=end,
        end_ns=end,
        **given,
    )


def group(task, *answers):
    return [record(task, sample, answer) for sample, answer in enumerate(answers)]


def point(records, samples):
    return Point(
        load=Load(kind="closed", concurrency=1),
        start_ns=0,
        stop_ns=10 * S,
        end_ns=10 * S,
        warmup=0,
        conditions={"samples_per_prompt": samples},
        records=records,
    )


def judged(records, samples):
    p = point(records, samples)
    return quality(p, whole_run(p))


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (("a", "b", "b"), "b"),
        (("a", "b"), "a"),  # a tie: the first said
        (("a", "b", "b", "a"), "a"),
        ((None, "b", "a", "a", "b"), "b"),
        ((None, None, None, "a"), "a"),  # what was not said has no vote
        ((None, None), None),
        ((), None),
    ],
)
def test_the_majority_and_its_ties(answers, winner):
    records = group("t", *answers)
    chosen = majority(reversed(records))  # in whatever order they came
    assert (chosen and chosen.answer) == winner


def test_a_vote_is_right_if_what_most_say_is():
    right, wrong, silent = votes(
        group("1", "no", "yes", "yes")
        + group("2", "no", "no", "yes")
        + group("3", None, None, None),
        samples=3,
    )
    assert (right.right, right.share) == (True, pytest.approx(2 / 3))
    assert (wrong.right, wrong.share) == (False, pytest.approx(1 / 3))
    assert (silent.right, silent.share) == (False, 0)


def test_a_task_with_samples_missing_is_incomplete_and_neither_right_nor_wrong():
    records = [*group("1", "yes", "yes"), record("2", 0, "yes"), record("2", 1, None, correct=None)]
    found = judged(records, 2)
    assert (found["tasks"], found["judged"], found["incomplete"]) == (2, 1, 1)
    assert found["accuracy"]["value"] == 1.0


def test_errors_are_wrong_in_the_share_and_shown_apart():
    failed = {"outcome": Outcome.FAILED, "wrong_why": "error: http_500"}
    records = [
        record("1", 0, "yes"),
        record("2", 0, None, **failed),
        record("3", 0, None, wrong_why="cut: at the limit"),
        record("4", 0, "no", wrong_why="wrong"),
    ]
    found = judged(records, 1)
    assert found["accuracy"]["value"] == 0.25
    assert found["samples_wrong"] == {"error": 1, "cut": 1, "wrong": 1}


def test_a_right_answer_counts_once_when_its_last_sample_has_come():
    records = [record("1", i, "yes", at_s=at) for i, at in enumerate((1, 2, 9.5))]
    records += [record("2", i, "no", at_s=3) for i in range(3)]
    found = judged(records, 3)
    assert found["correct"] == 1
    assert found["correct_per_s"]["whole_run"] == pytest.approx(0.1)
    p = point(records, 3)
    early = msgspec.structs.replace(whole_run(p), end_ns=9 * S, whole_run=False)
    assert quality(p, early)["correct_per_s"]["value"] == 0


def test_wilsons_interval_against_published_figures():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, n) == pytest.approx([low, high], abs=5e-5)
    assert wilson(0, 0) is None


def test_no_task_no_quality_and_no_answer_no_figure():
    plain = Record(request_id="1", sched_ns=0, outcome=Outcome.FINISHED)
    assert judged([plain], 1) is None
    nothing = judged([record("1", 0, None, correct=None)], 1)
    assert nothing["accuracy"] == {"value": None, "ci95": None}


def test_repeats_are_one_with_the_interval_over_them():
    runs = [judged(group("1", "yes") + group("2", said), 1) for said in ("yes", "no", "no")]
    merged = over_repeats(runs)
    assert merged["accuracy"]["value"] == pytest.approx(2 / 3)
    assert merged["accuracy"]["ci95"][0] < 2 / 3 < merged["accuracy"]["ci95"][1]
    assert (merged["judged"], merged["correct"]) == (6, 4)
    assert merged["samples_wrong"] == {"wrong": 2}
    assert over_repeats([None, None]) is None
