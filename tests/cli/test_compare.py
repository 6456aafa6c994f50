"""`penstock compare` and `penstock runs` as a user meets them."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.record.run import save
from tests.record.simulated import closed_point, run_of
from tests.report.page import Page


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, seed, speed in (("old", 1, 1.0), ("same", 2, 1.0), ("slow", 3, 0.8)):
        run = run_of(closed_point(seed, speed=speed, deviation=0.02, seconds=20))
        run.started = f"2026-01-0{seed}T00:00:00+00:00"
        run.summary["run_dir"] = f"{name} & <b>"
        save(run, root / name)
    (root / "foreign").mkdir()
    return root


def penstock(root, command, *arguments):
    result = CliRunner().invoke(app, [command, "--runs", str(root), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_differs_and_what_does_not(root):
    result = penstock(root, "compare", "old", "slow")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "B is worse" in text
    assert "Welch's t over" in text
    result = penstock(root, "compare", "old", "same")
    assert "B is" not in result.output
    assert "none shown" in result.output


def test_json_is_all_that_is_printed(root):
    made = json.loads(penstock(root, "compare", "old", "slow", "--json").stdout)
    [pair] = made["pairs"]
    throughput = pair["effects"][0]
    assert (throughput["name"], throughput["finding"]) == ("output_throughput", "worse")
    assert throughput["change"] == pytest.approx(-0.2, abs=0.03)
    assert throughput["ci95"][0] < throughput["change"] < throughput["ci95"][1]
    assert made["gates"] == []


@pytest.mark.parametrize(
    ("b", "gate", "code"),
    [
        ("slow", "output_throughput<-5%", 3),
        ("slow", "output_throughput<-50%", 0),
        ("same", "output_throughput<-5%", 0),
        ("slow", "tpot.p50>+10%,output_throughput<-90%", 3),
        ("same", "e2e.p99>+10%", 3),  # cannot be judged
        ("same", "output_throughput<5%", 2),
        ("same", "speed<-5%", 2),
    ],
)
def test_fail_if(root, b, gate, code):
    result = penstock(root, "compare", "old", b, "--fail-if", gate)
    assert result.exit_code == code, result.output
    if code == 2:
        assert "--fail-if" in result.output


def test_only_what_is_asked_for_is_tested(root):
    arguments = ("--json", "--metrics", "ttft,request_throughput", "--fail-if", "tpot.p50>5%")
    [pair] = json.loads(penstock(root, "compare", "old", "same", *arguments).stdout)["pairs"]
    names = [effect["name"] for effect in pair["effects"]]
    assert names == ["ttft.mean", "request_throughput", "tpot.p50"]
    assert penstock(root, "compare", "old", "same", "--metrics", "x").exit_code == 2


def test_the_page_and_the_picture(root, tmp_path):
    page, picture = tmp_path / "c.html", tmp_path / "c.png"
    result = penstock(
        root, "compare", "old", "slow", "--html", str(page), "--png", str(picture),
        "--fail-if", "output_throughput<-5%",
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    html = page.read_text()
    read = Page(html)
    assert "slow & <b>" in read.text
    assert "<b>\n" not in html
    assert "script" not in read.tags
    assert not [v for _, n, v in read.attributes if n in ("src", "href")]
    assert "B is worse" in read.text
    assert read.tags.count("svg") == 4  # changes and curves, each in two sizes
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_none_is_named(root):
    result = penstock(root, "compare", "old", "foreign")
    assert result.exit_code == 1
    assert "is not a run" in result.stderr
    result = penstock(root, "compare", "old", "nothing")
    assert result.exit_code == 1
    assert "`penstock runs` lists them" in result.stderr


def test_runs_lists_and_shrugs_at_what_it_cannot_read(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = penstock(root, "runs")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["old", "same", "slow"]
    assert all("VALID" in line for line in lines[1:4])
    assert "not shown" in result.stderr
    assert "foreign" in result.stderr


def test_a_baseline_is_named_marked_and_used(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert penstock(root, "runs", "baseline", "main", "old").exit_code == 0
    assert "baseline main" in penstock(root, "runs").stdout.splitlines()[1]
    assert "B is worse" in penstock(root, "compare", "main", "slow").stdout
    assert penstock(root, "runs", "baseline", "main", "foreign").exit_code == 1


def test_history_of_a_target(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = penstock(root, "runs", "history", "http://x", "--metric", "tpot.p50")
    lines = result.stdout.splitlines()
    assert "tpot.p50" in lines[0]
    assert [line.split()[-1] for line in lines[1:4]] == ["old", "same", "slow"]
    assert " ms to " in lines[1]
    assert penstock(root, "runs", "history", "--metric", "x").exit_code == 2
    assert penstock(root, "runs", "history", "another").exit_code == 1


def test_export(root, tmp_path):
    result = penstock(root, "runs", "export", "old", "--csv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) > 100
    assert rows[0]["outcome"] == "finished"
    out = tmp_path / "r.csv"
    assert penstock(root, "runs", "export", "old", "--csv", "--out", str(out)).exit_code == 0
    assert list(csv.DictReader(out.open())) == rows
    assert penstock(root, "runs", "export", "old").exit_code == 2
    assert penstock(root, "runs", "export", "nothing", "--csv").exit_code == 1


def test_no_runs_at_all(tmp_path):
    result = penstock(tmp_path, "runs")
    assert result.exit_code == 0
    assert "no runs under" in result.stderr
