"""Tasks from the command line."""

import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from tests.cli.test_bench import run
from tests.meter.test_bench import server_process


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples", "4"], "belongs to --tasks"),
        (["--few-shot", "2"], "belongs to --tasks"),
        (["--unsafe-sandbox"], "belongs to --tasks"),
        (["--tasks", "doctests", "--requests", "9"], "how many of them: --limit"),
        (["--tasks", "doctests", "--output-len", "9"], "no use with --tasks"),
        (["--tasks", "doctests", "--samples", "0"], "list of counts"),
    ],
)
def test_what_would_change_nothing_is_refused(arguments, says):
    done = CliRunner().invoke(app, ["bench", "http://127.0.0.1:1", *arguments])
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


def test_a_file_that_is_not_there_or_no_set_is_named(tmp_path):
    with server_process() as url:
        absent = run("bench", url, "--tasks", f"gsm8k:{tmp_path / 'none'}")
        unknown = run("bench", url, "--tasks", "mmlu")
    assert absent.returncode == unknown.returncode == 1
    assert "none" in absent.stderr
    assert "write doctests, humaneval:PATH" in unknown.stderr


def test_tasks_of_ones_own_are_graded_and_kept(tmp_path):
    """The scripted server says the same to everybody: one task of two is answered rightly."""
    from penstock.record.run import load

    tasks, out = tmp_path / "own.jsonl", tmp_path / "run"
    task = {"prompt": "?"}
    with server_process(events=2, eos=True) as url:
        checkers = [{"type": "regex", "pattern": "."}, {"type": "exact", "answer": "no such"}]
        tasks.write_text("".join(json.dumps(task | {"checker": c}) + "\n" for c in checkers))
        done = run(
            *("bench", url, "--tasks", str(tasks), "--samples", "1,2"),
            *("--json", "--no-html", "--out", str(out)),
        )
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert [p["load"]["concurrency"] for p in points] == [16, 16]
    assert [p["quality"]["samples"] for p in points] == [1, 2]
    kept = load(out)
    assert {len(point.records) for point in kept.points} == {2, 4}
    for point in kept.points:
        assert {(r.task, r.correct) for r in point.records} == {("1", True), ("2", False)}
        assert all(r.text and (r.correct or r.wrong_why == "wrong") for r in point.records)
