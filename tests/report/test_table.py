"""Rows of figures: units, digits, and what is shown only where it says something."""

import pytest

from penstock.record.series import Series
from penstock.record.slo import parse_slos
from penstock.record.summary import summarise
from penstock.report import table
from tests.report.runs import closed_point, dead_point, make_run, open_point


def row(run, label, detail=""):
    rows = [r for s in table.sections(run.summary["points"]) for r in s.rows]
    return next((r for r in rows if (r.label, r.detail) == (label, detail)), None)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.0, "0"),
        (12_345, "12,345"),
        (2_893.7, "2,890"),
        (99.96, "100"),
        (27.0, "27.0"),
        (2.8, "2.80"),
        (0.012345, "0.0123"),
    ],
)
def test_figures_have_three_significant_digits_and_counts_all(value, shown):
    assert table.figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.0373, "37.3 ms"), (0.9, "900 ms"), (1.5, "1.50 s")]
)
def test_durations_take_the_unit_a_reader_would(seconds, shown):
    assert table.duration(seconds) == shown


def test_a_latency_has_one_unit_for_all_points():
    slow = closed_point(1, 30)
    for record in slow.records:
        record.sched_ns -= 2_000_000_000
    slow.start_ns -= 2_000_000_000
    run = make_run(closed_point(1, 30), slow)
    waits = row(run, "… from schedule", "p50")
    assert waits.unit == "s"
    for cell, point in zip(waits.cells, run.summary["points"], strict=True):
        assert float(cell.text) == pytest.approx(point["ttft_from_schedule"]["p50"], rel=5e-3)


def test_goodput_is_shown_where_there_is_an_objective():
    points = closed_point(4, 60), closed_point(16, 200)
    assert row(make_run(*points), "Goodput") is None
    run = make_run(*points, slos=parse_slos("ttft<30ms"))
    shares = [p["goodput"]["share"] for p in run.summary["points"]]
    assert 0 < shares[1] < shares[0] < 1
    shown = [float(cell.text) for cell in row(run, "Within SLO").cells]
    assert shown == pytest.approx([100 * share for share in shares], rel=5e-3)


def test_intervals_are_shown_as_half_widths():
    run = make_run(closed_point(4, 160))
    point = run.summary["points"][0]
    low, high = point["output_throughput"]["ci95"]
    spread = row(run, "Output").cells[0].spread
    assert float(spread.removeprefix("± ")) == pytest.approx((high - low) / 2, rel=0.05)


def counted(run, watts):
    """Energy that was counted over all of a run."""
    start, end = run.points[0].start_ns, run.points[-1].end_ns
    joules = [0.0, watts * (end - start) / 1e9]
    run.series = [
        Series(
            name="energy",
            unit="J",
            kind="counter",
            source="RAPL x",
            at_ns=[start, end],
            values=joules,
        )
    ]
    run.summary = summarise(run)
    return run


def test_energy_is_shown_where_it_was_counted():
    run = make_run(closed_point(4, 160))
    assert row(run, "Power") is row(run, "Energy") is None
    rate = run.summary["points"][0]["output_throughput"]["value"]
    counted(run, 90.0)
    assert row(run, "Power").cells[0].text == "90.0"
    assert (row(run, "Energy").cells[0].text, row(run, "Energy").unit) == (
        table.figure(90.0 / rate),
        "J a token",
    )


def test_sessions_are_shown_with_those_still_open():
    point = closed_point(4, 160)
    assert row(make_run(point), "Still open") is None
    for i, record in enumerate(point.records):
        record.session, record.turn = str(i // 2), i % 2
        record.session_end = "completed" if i % 2 else None
    point.records[-1].session_end = None
    run = make_run(point)
    told = run.summary["points"][0]["sessions"]
    assert row(run, "Completed").cells[0].text == table.figure(told["completed_per_s"])
    assert row(run, "Turns of each").cells[0].text == "2.00"
    assert row(run, "Still open").cells[0].text == str(told["open"])
    assert told["open"] > 0


def test_choices_are_shown_beside_their_requests():
    point = closed_point(4, 80)
    assert row(make_run(point), "… choices") is None
    for i, record in enumerate(point.records):
        record.request_id, record.choice = str(i // 2), i % 2
    run = make_run(point)
    assert row(run, "Finished").cells[0].text == "40"
    assert row(run, "… choices").cells[0].text == "80"


def test_what_does_not_vary_has_no_interval():
    run = make_run(dead_point())
    assert row(run, "Output").cells[0] == table.Cell("0")


def test_conditions_that_differ_are_listed_by_point():
    found = dict(
        table.conditions(make_run(closed_point(1, 20), closed_point(4, 20)).summary["points"])
    )
    assert found["concurrency"] == ["1", "4"]
    assert found["precision"] == ["fp32"]
    assert found["server version"] == ["unknown"]


def test_headings_name_the_load():
    points = make_run(closed_point(16, 40), open_point(2.5, 20)).summary["points"]
    trace = {"load": {"kind": "trace", "concurrency": None, "rate": 25.53}, "quality": None}
    tasks = {**points[0], "quality": {"samples": 4}}
    assert [table.heading(p) for p in (*points, trace, tasks)] == [
        "16 at once",
        "2.5 req/s",
        "trace, 25.5 req/s",
        "16 at once, n = 4",
    ]
