"""MLPerf's rules: its constants, and runs that break one rule each."""

import pytest

from penstock.record.mlperf import MODELS, judge, parse_rules, queries_for
from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point
from tests.record.simulated import S, run_of


def server_point(n=1000, seconds=700, ttft=1.0, tpot=0.1, tokens=290, arrival="Poisson"):
    records = []
    for i in range(n):
        at = int(i * seconds / n * S)
        first = at + int(ttft * S)
        last = first + int(tpot * (tokens - 1) * S)
        records.append(
            Record(
                request_id=str(i),
                outcome=Outcome.FINISHED,
                sched_ns=at,
                sent_ns=at,
                first_ns=first,
                last_ns=last,
                end_ns=last,
                event_ns=[first, last],
                event_tokens=[1, tokens - 1],
                output_tokens=tokens,
            )
        )
    return Point(
        load=Load(kind="open", rate=n / seconds),
        start_ns=0,
        stop_ns=seconds * S,
        end_ns=records[-1].end_ns,
        warmup=0,
        conditions={"arrival": arrival, "model": "meta-llama/Llama-2-70b-chat-hf"},
        records=records,
    )


def codes(point, rules="mlperf:llama2-70b"):
    return [reason.code for reason in judge(point, parse_rules(rules, "x"))]


def test_early_stopping_as_in_loadgen():
    assert [queries_for(t) for t in (0, 1)] == [459, 662]
    assert [queries_for(t, 0.9) for t in (0, 1)] == [44, 64]
    assert [queries_for(t, 0.999) for t in (0, 1)] == [4603, 6636]


def test_a_run_that_keeps_all_rules():
    assert codes(server_point()) == []


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"seconds": 300, "tpot": 0.05}, ["mlperf_duration"]),
        ({"ttft": 2.5}, ["mlperf_ttft"]),
        ({"tpot": 0.25}, ["mlperf_tpot"]),
        ({"tokens": 200}, ["mlperf_lengths"]),
        ({"arrival": "constant"}, ["mlperf_load"]),
        ({"n": 458}, ["mlperf_ttft", "mlperf_tpot"]),
    ],
    ids=str,
)
def test_each_rule(changed, broken):
    assert codes(server_point(**changed)) == broken


def test_the_tail_is_judged_with_confidence():
    point = server_point(n=661)
    point.records[5].first_ns += 3 * S
    assert codes(point) == ["mlperf_ttft"]  # one over wants 662
    point = server_point(n=662)
    point.records[5].first_ns += 3 * S
    assert codes(point) == []


def test_failures_meet_no_limit():
    point = server_point()
    for record in point.records[::50]:
        record.outcome = Outcome.FAILED
    assert codes(point) == ["mlperf_ttft", "mlperf_tpot"]


def test_interactive_is_stricter():
    assert codes(server_point(), "mlperf:llama2-70b/interactive") == ["mlperf_ttft", "mlperf_tpot"]


def test_offline_wants_all_at_the_start_and_enough():
    point = server_point()
    assert codes(point, "mlperf:llama2-70b/offline") == ["mlperf_load", "mlperf_samples"]
    for record in point.records:
        record.sched_ns = 0
    assert codes(point) == ["mlperf_samples"]


def test_models_are_known_by_their_own_names():
    rules = parse_rules("mlperf", "neuralmagic/Llama-2-70b-chat-hf-FP8")
    assert (rules.name, rules.scenario) == ("llama2-70b", None)
    for name in MODELS:
        assert parse_rules(f"mlperf:{name}", "x").name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mlperf", "no rules for the model 'embedded'; it has: llama2-70b"),
        ("mlperf:gpt-2", "no rules for the model 'gpt-2'"),
        ("spec", "unknown rules 'spec'"),
        ("mlperf:llama2-70b/multi", "unknown scenario 'multi'"),
        ("mlperf:mixtral-8x7b/interactive", "no interactive limits for mixtral-8x7b"),
        ("mlperf:gpt-oss-120b/offline", "no offline count for gpt-oss-120b"),
    ],
)
def test_what_is_unknown_is_named(text, says):
    with pytest.raises(ValueError, match=says):
        parse_rules(text, "embedded")


def test_the_summary_says_under_which_rules():
    run = run_of(server_point(seconds=300))
    run.rules = "mlperf"
    from penstock.record.summary import summarise

    verdict = summarise(run)["verdict"]
    assert verdict["rules"] == "mlperf"
    assert "mlperf_duration" in [reason["code"] for reason in verdict["reasons"]]
