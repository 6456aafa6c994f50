"""The command as a user meets it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner

from penstock.cli import app
from penstock.cli.asked import options_of
from penstock.cli.parse import given
from penstock.record.run import load
from tests.meter.test_bench import server_process

FAST = ["--input-len", "10-20", "--output-len", "8"]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def test_json_prints_the_summary_alone_and_the_run_is_kept(tmp_path):
    with server_process() as url:
        out = tmp_path / "run"
        done = run("bench", url, "--requests", "12", *FAST, "--json", "--png", "--out", str(out))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [p["load"]["concurrency"] for p in summary["points"]] == [1, 16]
    for point in summary["points"]:
        for name in ("ttft", "ttft_from_schedule", "tpot", "itl", "e2e"):
            assert {"mean", "p50", "p90", "p99"} <= point[name].keys()
        for name in [
            "output_throughput",
            "input_throughput",
            "request_throughput",
            "user_speed",
            "words_per_second",
            "goodput",
            "errors",
            "completed",
            "conditions",
        ]:
            assert name in point
    assert summary["html"] == str(out / "report.html")
    assert (out / "report.html").stat().st_size > 1000
    assert summary["png"] == str(out / "report.png")
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert load(out).summary == summary


def test_the_report_opens_with_the_sentences(tmp_path):
    with server_process() as url:
        done = run(
            "bench", url, "--concurrency", "2", "--requests", "12", *FAST,
            "--out", str(tmp_path), "--no-html",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("With 2 at once, one user of scripted gets")
    assert not (tmp_path / "report.html").exists()


def answered(url):
    """How many requests a scripted server has begun to answer."""
    with urllib.request.urlopen(f"{url}/stamps", timeout=5) as reply:
        return len(json.load(reply))


@contextmanager
def begun(url, *arguments, requests=6):
    """The command, once so many requests have come to the server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "bench", url, *FAST, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while answered(url) < requests and time.monotonic() < deadline:
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "mode",
    [
        [],
        ["--sweep"],
        pytest.param(["--capacity", "--slo", "e2e<9s", "--duration", "1"], marks=pytest.mark.slow),
        pytest.param(["--repeats", "3"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ctrl_c_keeps_what_there_is_and_reports(tmp_path, mode):
    with (
        server_process(itl_s=0.03) as url,
        begun(url, "--concurrency", "2", "--json", "--out", str(tmp_path), *mode) as process,
    ):
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    summary = json.loads(stdout)
    assert summary["interrupted"]
    assert summary["points"][0]["completed"] > 0
    assert load(tmp_path).interrupted


@pytest.mark.slow
def test_a_sweep_says_why_it_stopped_and_marks_what_is_past_saturation(tmp_path):
    with server_process(ttft_s=0.0, itl_s=0.02, events=4, slots=4) as url:
        done = run(
            "bench", url, "--sweep", "--duration", "1", *FAST, "--price", "2/h", "--json",
            "--out", str(tmp_path), "--no-html",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["swept"]["stopped"]
    loads = [point["load"]["concurrency"] for point in summary["points"]]
    assert loads == sorted(loads)
    assert len(loads) >= 4
    best = summary["swept"]["best"]
    for point in summary["points"]:
        assert (point["role"] == "overload") == (point["load"]["concurrency"] > best)
        assert point["cost"]["output_tokens"] == pytest.approx(
            2 / 3600 / point["output_throughput"]["value"] * 1e6
        )


def test_interleaved_targets_are_two_runs_and_a_comparison(tmp_path):
    with server_process() as a, server_process() as b:
        done = run(
            "bench", a, "--interleave", b, "--concurrency", "2", "--requests", "8", "--repeats",
            "2", *FAST, "--json", "--out", str(tmp_path), "--no-html",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["comparison"]
    runs = load(tmp_path / "a"), load(tmp_path / "b")
    assert [r.target["name"] for r in runs] == [a, b]
    turns = sorted((p.start_ns, name) for r, name in zip(runs, "ab", strict=True) for p in r.points)
    assert [name for _, name in turns] == ["a", "b", "b", "a"]


def test_strict_exits_4_where_the_verdict_is_invalid(tmp_path):
    with server_process() as url:
        done = run(
            "bench", url, "--concurrency", "1", "--requests", "6", *FAST, "--strict",
            "--out", str(tmp_path), "--no-html",
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "INVALID" in done.stdout


def test_whole_answers_have_a_total_time_only(tmp_path):
    with server_process() as url:
        done = run(
            "bench", url, "--concurrency", "1", "--requests", "6", *FAST, "--no-stream", "--json",
            "--out", str(tmp_path), "--no-html",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout)["points"][0]
    assert point["completed"] == 6
    assert point["ttft"]["p50"] is None
    assert point["e2e"]["p50"] > 0


def test_a_server_that_only_fails_exits_1(tmp_path):
    with server_process(fault="503") as url:
        done = run(
            "bench", url, "--requests", "9", *FAST, "--json", "--png", "--out", str(tmp_path)
        )
    assert done.returncode == 1
    assert "--png: this run has no picture" in done.stderr
    assert not (tmp_path / "report.png").exists()
    point = json.loads(done.stdout)["points"][0]
    assert point["errors"] == {"count": 9, "by_class": {"http_503": 9}}
    assert point["output_throughput"]["value"] == 0


@pytest.mark.parametrize(
    ("more", "repeats"),
    [([], 1), (["--repeats", "3"], 3), (["--interleave", "http://y"], 5)],
    ids=str,
)
def test_so_many_repeats_unless_told(more, repeats):
    command = typer.main.get_command(app).commands["bench"]
    context = command.make_context("bench", ["http://x", *more])
    assert options_of(context.params, given(context)).repeats == repeats


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://x", "--concurrency", "0"], "--concurrency"),
        (["http://x", "--concurrency", "1,a"], "--concurrency"),
        (["http://x", "--rate", "-1"], "--rate"),
        (["http://x", "--input-len", "many"], "--input-len"),
        (["http://x", "--output-len", "9-3"], "--output-len"),
        (["http://x", "--slo", "fast"], "--slo"),
        (["http://x", "--duration", "0"], "--duration"),
        (["http://x", "--speed", "0"], "--speed"),
        (["http://x", "--prompts", "/no/such"], "--prompts"),
        (["http://x", "--trace", "/no/such"], "--trace"),
        (["http://x", "--tokenizer", "/no/such"], "--tokenizer"),
        (["http://x", "--price", "free"], "--price"),
        (["http://x", "--capacity"], "--slo"),
        (["http://x", "--no-stream", "--slo", "ttft<1s"], "--slo"),
        (["http://x", "--workload", "nonsense"], "--workload"),
        (["http://x", "--arrival", "5"], "--arrival"),
        (["http://x", "--arrival", "poisson:5", "--rate", "2"], "--rate and --arrival"),
        (["http://x", "--sweep", "--repeats", "2"], "--repeats"),
        (["http://x", "--sweep", "--tasks", "doctests"], "--tasks"),
        (["http://x", "--interleave", "ftp://y"], "TARGET"),
        (["--interleave", "http://y"], "--interleave"),
        (["engine:embedded", "--workers", "2"], "--workers"),
        (["http://x", "--rate", "1", "--concurrency", "2"], "--concurrency"),
        (["http://x", "--speed", "2"], "--speed"),
        (["http://x", "--trace", "t.csv", "--requests", "5"], "--requests"),
        (["http://x", "--trace", "t.csv", "--input-len", "5"], "--input-len"),
        (["http://x", "--prompts", "p.jsonl", "--input-len", "5"], "--input-len"),
        (["engine:embedded", "--chat"], "--chat"),
        (["--model", "m"], "--model"),
        (["ftp://x"], "TARGET"),
        (["engine:/no/such/model"], "TARGET"),
    ],
    ids=str,
)
def test_bad_input_names_the_option_and_exits_2(arguments, says):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert says in result.output


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    result = CliRunner().invoke(app, ["bench"])
    assert result.exit_code == 2
    assert "pip install 'penstock[engine]'" in result.output


def test_nobody_there():
    done = run("bench", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


def test_measuring_a_url_imports_no_torch(tmp_path):
    code = (
        "import sys\n"
        "from penstock.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    with server_process() as url:
        done = subprocess.run(
            [sys.executable, "-c", code, "bench", url, "--concurrency", "1", "--requests", "6",
             *FAST, "--out", str(tmp_path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
