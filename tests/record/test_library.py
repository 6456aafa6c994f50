"""Runs are found by name; what is no run is listed as such."""

import csv
import io
import json

import pytest

from penstock.record.export import write_csv
from penstock.record.library import baselines, figure, find, history, listed, set_baseline
from penstock.record.record import Record
from penstock.record.run import _COLUMNS, load, save
from tests.record.simulated import closed_point, run_of


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for day, name in ((2, "20260102-a"), (1, "20260101-b")):
        run = run_of(closed_point(day, seconds=12))
        run.started = f"2026-01-0{day}T00:00:00+00:00"
        save(run, root / name)
    (root / "foreign").mkdir()
    (root / "file").write_text("no directory")
    return root


def damaged(root, name, text, parquet=b"no"):
    (root / name).mkdir()
    (root / name / "run.json").write_text(text)
    (root / name / "requests.parquet").write_bytes(parquet)


def test_runs_are_listed_by_time_and_the_unreadable_last(root):
    assert [one.directory.name for one in listed(root)] == ["20260101-b", "20260102-a", "foreign"]
    assert "is not a run" in listed(root)[-1].fault
    assert listed(root / "nothing") == []


def test_the_two_runs_of_an_interleaved_one_are_listed(tmp_path):
    for name in ("l/a", "l/b", "m"):
        save(run_of(closed_point(1, seconds=12)), tmp_path / name)
    assert {one.name for one in listed(tmp_path)} == {"l/a", "l/b", "m"}
    assert all(one.run for one in listed(tmp_path))
    assert find("l/b", tmp_path) == tmp_path / "l/b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 99}',
        '{"format": 1, "started": "x", "target": {}, "points": []}',
        '{"format": 1, "started": "x", "target": {}, "points": [], "summary": {"points": [1]}}',
        '{"format": 1, "started": "x", "target": {}, "points": [], "summary": {"points": [{}]}}',
        '{"format": 1, "started": "x", "target": {}, "points": [], "summary": {"points": 7}}',
    ],
)
def test_damaged_runs_are_listed_as_such(tmp_path, text):
    damaged(tmp_path, "bad", text)
    [one] = listed(tmp_path)
    assert one.run is None
    assert "damaged" in one.fault or "format 99" in one.fault


def test_damaged_records_are_refused(root, tmp_path):
    good = (root / "20260101-b" / "run.json").read_text()
    damaged(tmp_path, "cut", good)
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "cut")
    parquet = (root / "20260101-b" / "requests.parquet").read_bytes()
    text = json.dumps({**json.loads(good), "points": []})
    damaged(tmp_path, "pointless", text, parquet)
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "pointless")


def test_finding(root):
    assert find(str(root / "20260101-b"), root) == root / "20260101-b"
    assert find("20260101-b", root) == find("20260101", root) == root / "20260101-b"
    with pytest.raises(ValueError, match="may be any of these runs: 20260101-b, 20260102-a"):
        find("2026", root)
    with pytest.raises(ValueError, match="neither"):
        find("x", root)


def test_baselines(root, tmp_path):
    set_baseline("good", root / "20260101-b", root)
    assert find("good", root) == root / "20260101-b"
    save(run_of(closed_point(1, seconds=12)), tmp_path / "elsewhere")
    set_baseline("far", tmp_path / "elsewhere", root)
    assert find("far", root).resolve() == (tmp_path / "elsewhere").resolve()
    assert set(baselines(root)) == {"good", "far"}
    with pytest.raises(ValueError, match="is not a run"):
        set_baseline("bad", root / "foreign", root)
    with pytest.raises(ValueError, match="no name"):
        set_baseline("a/b", root / "20260101-b", root)


def test_a_damaged_list_of_baselines_says_what_to_do(tmp_path):
    (tmp_path / "baselines.json").write_text("[]")
    with pytest.raises(ValueError, match="Delete it"):
        baselines(tmp_path)


def test_history_is_of_one_target(root):
    runs = listed(root)
    assert len(list(history(runs, None))) == len(list(history(runs, "http://x"))) == 2
    assert list(history(runs, "another")) == []


def test_figures_by_name(root):
    point = listed(root)[0].run.summary["points"][0]
    assert figure(point, "ttft.p50") == (
        point["ttft"]["p50"],
        point["ttft"]["intervals"]["p50"],
    )
    assert figure(point, "output_throughput")[0] == point["output_throughput"]["value"]
    assert figure(point, "errors") == (0.0, None)
    assert figure(point, "goodput")[0] > 0
    assert figure(point, "accuracy") == figure(point, "correct_per_s") == (None, None)
    point["quality"] = {"accuracy": {"value": 0.4, "ci95": [0.3, 0.5]}}
    assert figure(point, "accuracy") == (0.4, [0.3, 0.5])
    with pytest.raises(ValueError, match="no metric"):
        figure(point, "speed")


def test_every_field_of_a_record_is_kept():
    assert list(_COLUMNS) == ["point", *Record.__struct_fields__]


def test_csv_holds_every_request(root):
    run = load(root / "20260101-b")
    run.points[0].records[0].error = "=HYPERLINK(1)"
    text = io.StringIO()
    write_csv(run, text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    records = run.points[0].records
    assert len(rows) == len(records)
    assert [int(row["sched_ns"]) for row in rows] == [r.sched_ns for r in records]
    assert list(map(int, rows[3]["event_ns"].split())) == records[3].event_ns
    assert rows[0]["error"] == "'=HYPERLINK(1)"
    assert rows[1]["error"] == ""
