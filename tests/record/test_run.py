"""A run survives the disk, and its summary says what the records say."""

import msgspec
import pytest

from penstock.record.price import parse_price
from penstock.record.record import Outcome, Record
from penstock.record.run import Run, load, save
from penstock.record.slo import parse_slos
from penstock.record.summary import summarise
from tests.record.test_steady import S, closed_loop


def make_run(**options):
    run = Run(
        started="2026-01-01T00:00:00+00:00",
        target={"kind": "http", "name": "http://x", "model": "m", "facts": None},
        points=[closed_loop(**options)],
        slos=parse_slos("ttft.p99<0.5s"),
        notes=["a note"],
    )
    run.summary = summarise(run)
    return run


def test_choices_are_one_request():
    """With two choices of each request tokens double; requests, and their cost, do not."""
    run = make_run()
    run.price = parse_price("3.6/h")
    alone = summarise(run)["points"][0]
    records = run.points[0].records
    run.points[0].records = [
        msgspec.structs.replace(record, choice=choice, prompt_tokens=None if choice else 10)
        for record in records
        for choice in (0, 1)
    ]
    both = summarise(run)["points"][0]
    assert both["completed"] == 2 * alone["completed"] == 2 * both["requests"]
    for same in (
        lambda p: p["request_throughput"]["value"],
        lambda p: p["goodput"]["requests_per_s"],
        lambda p: p["goodput"]["share"],
        lambda p: p["cost"]["request"],
    ):
        assert same(both) == pytest.approx(same(alone))
    assert both["cost"]["output_tokens"] == pytest.approx(alone["cost"]["output_tokens"] / 2)


def test_round_trip(tmp_path):
    run = make_run()
    run.points[0].records.append(
        Record(request_id="bad", outcome=Outcome.FAILED, error="reset: gone", sched_ns=5)
    )
    save(run, tmp_path / "run")
    assert load(tmp_path / "run") == run


def test_a_loaded_run_can_be_summarised_again(tmp_path):
    run = make_run()
    save(run, tmp_path)
    assert summarise(load(tmp_path)) == run.summary


def test_a_run_without_records_round_trips(tmp_path):
    run = make_run()
    run.points[0].records = []
    save(run, tmp_path)
    assert load(tmp_path) == run


def test_what_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        load(tmp_path / "nothing")
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "requests.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


def test_another_format_is_refused(tmp_path):
    run = msgspec.structs.replace(make_run(), format=99)
    save(run, tmp_path)
    with pytest.raises(ValueError, match="format 99"):
        load(tmp_path)


def test_summary_of_a_server_of_known_speed():
    # Four slots; an answer of n tokens takes 0.05 + (n-1)*0.02 s, n uniform on 10..39.
    point = make_run().summary["points"][0]
    mean_tokens = 24.5
    true = 4 * mean_tokens / (0.05 + (mean_tokens - 1) * 0.02)
    low, high = point["output_throughput"]["ci95"]
    assert low <= true * 1.01
    assert high >= true * 0.99
    assert point["ttft"]["p50"] == pytest.approx(0.05)
    assert point["tpot"]["mean"] == pytest.approx(0.02)
    assert point["itl"]["p99"] == pytest.approx(0.02)
    assert point["user_speed"]["p50"] == pytest.approx(50)
    assert point["goodput"]["share"] == 1.0
    assert point["goodput"]["slo"] == {"ttft.p99<0.5s": 0.5}
    assert point["output_throughput"]["whole_run"] < point["output_throughput"]["value"]


def test_failures_never_raise_a_figure():
    good = make_run()
    bad = make_run()
    records = bad.points[0].records
    for r in records[::3]:
        r.outcome, r.error = Outcome.FAILED, "http_500: x"
    bad.summary = summarise(bad)
    before, after = good.summary["points"][0], bad.summary["points"][0]
    for figure in ("output_throughput", "request_throughput"):
        assert after[figure]["whole_run"] <= before[figure]["whole_run"]
        assert after[figure]["value"] <= before[figure]["value"]
    assert after["goodput"]["share"] < before["goodput"]["share"]
    assert after["goodput"]["requests_per_s"] < before["goodput"]["requests_per_s"]
    count = len(records[::3])
    assert after["errors"] == {"count": count, "by_class": {"http_500": count}}
    assert after["wasted_tokens"] == sum(r.output_tokens for r in records[::3])


def test_nothing_finished_is_said_plainly():
    run = make_run()
    for r in run.points[0].records:
        r.outcome = Outcome.FAILED
    summary = summarise(run)
    assert "No request finished" in summary["sentences"][0]
    assert summary["points"][0]["ttft"]["mean"] is None
    assert len(summary["sentences"]) == 3


def test_unknown_token_counts_are_unknown_not_zero():
    run = make_run()
    for r in run.points[0].records:
        r.output_tokens, r.event_tokens = None, []
    point = summarise(run)["points"][0]
    assert point["output_throughput"]["value"] is None
    assert point["tpot"]["mean"] is None
    assert point["user_speed"]["p50"] is None
    assert point["request_throughput"]["value"] > 0


def test_records_are_told_apart_by_point(tmp_path):
    run = make_run()
    run.points.append(closed_loop(slots=2, seconds=5))
    run.summary = summarise(run)
    save(run, tmp_path)
    again = load(tmp_path)
    assert [len(p.records) for p in again.points] == [len(p.records) for p in run.points]
    assert again.points[1].start_ns + 5 * S == again.points[1].stop_ns
