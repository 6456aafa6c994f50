import pytest

from penstock.record.record import Outcome
from penstock.record.slo import Slo, parse_slos
from tests.record.test_metrics import record


def test_terms_are_read():
    assert parse_slos("ttft.p99<0.5s, tpot<50ms,e2e<=10s") == [
        Slo(metric="ttft", limit_s=0.5, quantile=0.99),
        Slo(metric="tpot", limit_s=0.05),
        Slo(metric="e2e", limit_s=10.0),
    ]
    assert parse_slos("") == []


@pytest.mark.parametrize("text", ["ttft", "ttft<", "itl<5ms", "ttft<5", "ttft>5s", "x<1s"])
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(ValueError, match="cannot read the limit"):
        parse_slos(text)


def test_ttft_counts_from_the_schedule():
    late = record([60], sched=0, sent=50)
    assert not Slo(metric="ttft", limit_s=0.050).met_by(late)
    assert Slo(metric="ttft", limit_s=0.060).met_by(late)


def test_one_event_cannot_break_a_tpot_limit():
    assert Slo(metric="tpot", limit_s=1e-9).met_by(record([60]))


def test_a_failure_meets_nothing():
    assert not Slo(metric="e2e", limit_s=100).met_by(record([60], outcome=Outcome.FAILED))
