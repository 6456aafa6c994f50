"""The command as a user meets it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from penstock.cli import app
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
        done = run("bench", url, "--requests", "12", *FAST, "--json", "--out", str(out))
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


def test_ctrl_c_keeps_what_there_is_and_reports(tmp_path):
    with server_process(itl_s=0.03) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "bench", url, "--concurrency", "2", *FAST,
             "--json", "--out", str(tmp_path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=20)
    summary = json.loads(stdout)
    assert summary["interrupted"]
    assert summary["points"][0]["completed"] > 0
    assert load(tmp_path).interrupted


def test_a_server_that_only_fails_exits_1(tmp_path):
    with server_process(fault="503") as url:
        done = run("bench", url, "--requests", "9", *FAST, "--json", "--out", str(tmp_path))
    assert done.returncode == 1
    point = json.loads(done.stdout)["points"][0]
    assert point["errors"] == {"count": 9, "by_class": {"http_503": 9}}
    assert point["output_throughput"]["value"] == 0


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
        (["http://x", "--rate", "1", "--trace", "t.csv"], "--rate and --trace"),
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
