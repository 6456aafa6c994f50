"""Every definition of the metric table, on records worked out by hand."""

import numpy as np
import pytest

from penstock.record import metrics
from penstock.record.record import Outcome, Record

MS = 1_000_000


def record(events, tokens=None, *, sched=0, sent=10, outcome=Outcome.FINISHED, **other):
    """Times in ms."""
    events_ns = [int(t * MS) for t in events]
    tokens = [1] * len(events) if tokens is None else tokens
    return Record(
        request_id="r",
        outcome=outcome,
        sched_ns=sched * MS,
        sent_ns=sent * MS,
        first_ns=events_ns[0] if events else None,
        last_ns=events_ns[-1] if events else None,
        event_ns=events_ns,
        event_tokens=tokens,
        output_tokens=sum(tokens) if tokens else None,
        **other,
    )


def test_latencies_from_sent_and_from_schedule():
    r = record([60, 80, 100])
    assert metrics.ttft(r) == pytest.approx(0.050)
    assert metrics.ttft_from_schedule(r) == pytest.approx(0.060)
    assert metrics.e2e(r) == pytest.approx(0.100)
    assert metrics.e2e_from_sent(r) == pytest.approx(0.090)


def test_tpot_leaves_out_the_tokens_of_the_first_event():
    # 3 tokens on the first event, 6 later ones in 60 ms: 10 ms each, not 60/8.
    assert metrics.tpot(record([40, 70, 100], [3, 3, 3])) == pytest.approx(0.010)


@pytest.mark.parametrize(
    "r", [record([50]), record([50], [12]), record([]), record([50, 60], [])], ids=str
)
def test_tpot_is_undefined_not_zero(r):
    assert metrics.tpot(r) is None


def test_an_event_of_several_tokens_is_one_gap():
    records = [record([40, 70, 100], [1, 4, 4]), record([10, 20])]
    assert metrics.itl(records) == pytest.approx([0.030, 0.030, 0.010])
    assert metrics.tokens_per_event(records) == pytest.approx(3.0)


def test_tokens_are_credited_when_they_arrive_prompts_at_first_requests_at_last():
    r = record([50, 150, 250], [1, 2, 4], prompt_tokens=30)
    window = (100 * MS, 300 * MS)
    assert metrics.rates(metrics.output_arrivals([r]), *window)[0] == pytest.approx(6 / 0.2)
    assert metrics.rates(metrics.input_arrivals([r]), *window)[0] == 0
    assert metrics.rates(metrics.input_arrivals([r]), 0, 100 * MS)[0] == pytest.approx(300)
    assert metrics.rates(metrics.request_arrivals([r]), *window)[0] == pytest.approx(5)


def choices(request_id, *ends, outcome=Outcome.FINISHED):
    made = [record([50, end]) for end in ends]
    for choice, one in enumerate(made):
        one.request_id, one.choice = request_id, choice
    made[-1].outcome = outcome
    return made


def test_a_request_is_all_of_its_choices_and_over_with_the_last():
    records = [*choices("a", 120, 180, 150), *choices("b", 100, 110, outcome=Outcome.FAILED)]
    times, amounts = metrics.request_arrivals(records)
    assert (times.tolist(), amounts.tolist()) == ([180 * MS], [1])
    assert [len(r) for r in metrics.requests(records)] == [3, 2]


def test_rates_of_slices_average_to_the_rate_of_the_window():
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 10**9, 500))
    arrivals = (times, rng.integers(1, 5, 500))
    slices = metrics.rates(arrivals, 0, 10**9, 7)
    assert slices.mean() == pytest.approx(metrics.rates(arrivals, 0, 10**9)[0])


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.UNFINISHED])
def test_what_did_not_finish_is_waste_not_work(outcome):
    r = record([50, 60], outcome=outcome, prompt_tokens=30)
    for arrivals in (
        metrics.output_arrivals([r]),
        metrics.input_arrivals([r]),
        metrics.request_arrivals([r]),
    ):
        assert len(arrivals[0]) == 0
    assert metrics.wasted_tokens([r]) == 2


def test_errors_are_grouped_by_class():
    records = [
        record([], outcome=Outcome.FAILED, error=error)
        for error in ("http_503: a", "reset: b", "http_503: c")
    ]
    assert metrics.errors_by_class(records) == {"http_503": 2, "reset": 1}
