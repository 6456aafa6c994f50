"""Each fault is found, named with its number, and found only where it is."""

import msgspec
import pytest

from penstock.record import metrics
from penstock.record.capacity import SHARE, trial_of
from penstock.record.record import Outcome
from penstock.record.slo import parse_slos
from penstock.record.steady import steady_window, warm_ns
from penstock.record.summary import summarise
from penstock.record.verdict import judge
from tests.record.simulated import S, closed_point, run_of


def codes(point):
    return [reason.code for reason in judge(point, steady_window(point))]


@pytest.fixture
def point():
    return closed_point(1, deviation=0.03)


def spoil(point, every, **fields):
    for record in point.records[::every]:
        for name, value in fields.items():
            setattr(record, name, value)


def test_a_good_run_is_valid(point):
    assert codes(point) == []
    summary = run_of(point).summary
    assert summary["verdict"] == {"valid": True, "reasons": [], "rules": None}
    assert summary["points"][0]["verdict"]["valid"]


def test_good_runs_are_nearly_always_valid():
    verdicts = [codes(closed_point(seed, deviation=0.05)) for seed in range(20)]
    assert sum(verdict == [] for verdict in verdicts) >= 18


def test_too_short_and_too_few():
    assert codes(closed_point(1, seconds=8)) == ["too_short"]
    assert codes(closed_point(1, slots=1, seconds=20)) == ["too_few"]


def test_a_window_of_few_answers_is_too_short():
    point = closed_point(2, speed=0.2, slots=32, seconds=25)  # an answer takes 4 s, five 20 s
    [reason] = [r for r in judge(point, steady_window(point)) if r.code == "too_short"]
    assert "5 times the median answer" in reason.says
    assert reason.value < reason.threshold


@pytest.mark.parametrize(("delay_ms", "says"), [(9, []), (30, ["client_late"])])
def test_a_late_client(point, delay_ms, says):
    for record in point.records:
        record.sent_ns = record.sched_ns + delay_ms * 1_000_000
    assert codes(point) == says


def test_delay_that_is_nothing_beside_the_wait_is_let_pass(point):
    for record in point.records:
        record.sent_ns = record.sched_ns + 30_000_000
        record.first_ns += S  # so that the wait is over a second
    assert codes(point) == []


def test_not_steady():
    point = closed_point(3, deviation=0.03)
    slow = closed_point(3, deviation=0.03, speed=0.5)
    point.records = [r for r in point.records if r.sched_ns < 20 * S]
    point.records += [r for r in slow.records if r.sched_ns >= 20 * S]
    [reason] = judge(point, steady_window(point))
    assert reason.code == "not_steady"
    assert "events per second changed by -" in reason.says


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.FAILED, "errors"),
        (Outcome.CANCELLED, "cut"),
        (Outcome.UNFINISHED, "cut"),
    ],
)
def test_what_is_missing(point, outcome, code):
    spoil(point, 500, outcome=outcome)
    assert codes(point) == []
    spoil(point, 20, outcome=outcome)
    [reason] = judge(point, steady_window(point))
    assert reason.code == code
    assert reason.value == pytest.approx(0.05, abs=0.01)
    assert "5." in reason.says or "4." in reason.says


def test_token_counts(point):
    spoil(point, 1, recounted=None)
    assert codes(point) == []
    for record in point.records:
        record.recounted = record.output_tokens - 1  # an EOS that no event carries
    assert codes(point) == []
    for record in point.records:
        record.recounted = record.output_tokens * 2
    assert codes(point) == ["token_counts"]
    spoil(point, 1, output_tokens=None)
    assert codes(point) == ["tokens_unknown"]


def test_cache_hits(point):
    for opening in (0, 16):  # every prompt may begin alike
        spoil(point, 1, cached_tokens=opening)
        assert codes(point) == []
    spoil(point, 1, cached_tokens=40)
    [reason] = judge(point, steady_window(point))
    assert reason.code == "cache_hits"
    assert "40.0%" in reason.says
    point.shares_prefixes = True
    assert codes(point) == []


def test_interrupted_and_a_lost_worker(point):
    point.interrupted, point.missing = True, ["worker 2 ended with signal 9 after 12 s"]
    reasons = judge(point, steady_window(point))
    assert [reason.code for reason in reasons] == ["interrupted", "worker_lost"]
    assert "signal 9" in reasons[1].says


def test_interrupted_between_points(point):
    run = run_of(point)
    run.interrupted = True
    verdict = summarise(run)["verdict"]
    assert [reason["code"] for reason in verdict["reasons"]] == ["interrupted"]
    assert not verdict["valid"]


def test_every_reason_names_a_remedy_and_its_number(point):
    spoil(point, 3, outcome=Outcome.FAILED, sent_ns=None)
    spoil(point, 1, cached_tokens=40)
    point.missing = ["x"]
    for reason in judge(point, steady_window(point)):
        assert len(reason.remedy) > 10
        if reason.value is not None:
            assert reason.threshold is not None
            assert any(c.isdigit() for c in reason.says) or reason.code == "worker_lost"


def test_reasons_of_the_run_say_where(point):
    short = closed_point(4, slots=2, seconds=5, deviation=0.03)
    verdict = run_of(point, short).summary["verdict"]
    assert {reason["at"] for reason in verdict["reasons"]} == {"with 2 at once"}
    assert msgspec.json.decode(msgspec.json.encode(verdict)) == verdict


def test_nothing_measured_is_not_valid():
    assert not run_of().summary["verdict"]["valid"]


def test_choices_of_one_request_count_as_one():
    point = closed_point(1, slots=1, seconds=20)  # too few, as above
    whole = len(point.records)
    point.records += [
        msgspec.structs.replace(record, choice=choice)
        for record in point.records
        for choice in (1, 2, 3)
    ]
    [reason] = judge(point, steady_window(point))
    assert reason.code == "too_few"
    assert reason.value <= whole


def test_a_request_with_a_choice_over_the_limit_is_one_miss():
    point = closed_point(1, seconds=20)
    slos = parse_slos("e2e<1000s")
    plain = trial_of(point, slos)
    point.records += [msgspec.structs.replace(record, choice=1) for record in point.records]
    assert trial_of(point, slos) == plain
    slow = [record for record in point.records if record.choice == 1][::5]
    for record in slow:
        record.last_ns += 2_000 * S
    wanted = {r.request_id for r in metrics.scheduled_in(slow, warm_ns(point), point.stop_ns)}
    assert trial_of(point, slos).missed == {SHARE: len(wanted)}
    assert trial_of(point, slos).asked == plain.asked
