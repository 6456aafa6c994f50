"""The ground-truth server tells the truth, and the self-test holds the meter against it."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
import urllib.request

import msgspec
import numpy as np
import pytest

from penstock.meter import truth as truth_module
from penstock.meter.selftest import Row, Setting, measure
from penstock.meter.truth import Timing, TruthError, true_server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def post(url, body):
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()


def test_the_server_keeps_its_schedule_and_knows_what_it_did():
    with true_server(Timing(ttft_s=0.04, itl_s=0.02, events=9, tokens_per_event=3)) as truth:
        messages = [{"role": "user", "content": "truth-17: x"}]
        before = time.monotonic_ns()
        said = post(truth.url, {"messages": messages, "stream": True, "max_tokens": 12})
        whole = post(truth.url, {"messages": messages})
        after = time.monotonic_ns()
    lines = [line for line in said.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == [" token" * 3] * 4
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert json.loads(whole)["usage"]["completion_tokens"] == 27
    streamed, unstreamed = truth.answers
    assert (streamed.id, unstreamed.id) == (17, 17)
    assert before < streamed.arrival_ns < streamed.event_ns[0] < unstreamed.event_ns[-1] < after
    assert streamed.due_ns[0] == streamed.arrival_ns + 40_000_000
    assert np.diff(streamed.due_ns).tolist() == [20_000_000] * 3
    assert (streamed.event_ns >= streamed.due_ns).all()
    # A whole answer comes when its last event would have.
    assert unstreamed.due_ns.tolist() == [unstreamed.arrival_ns + 40_000_000 + 8 * 20_000_000]
    assert truth.late_ms_p99 >= 0


def test_usage_comes_only_when_asked_for():
    with true_server(Timing(ttft_s=0, itl_s=0)) as truth:
        asked = {"stream": True, "max_tokens": 2, "stream_options": {"include_usage": True}}
        assert '"completion_tokens":2' in post(truth.url, asked)
        assert "usage" not in post(truth.url, {"stream": True, "max_tokens": 2})


def test_no_compiler_is_an_error_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TruthError, match="no C compiler: install one"), true_server(Timing()):
        pass


def test_a_source_that_does_not_compile_is_an_error(monkeypatch, tmp_path):
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return oops; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(truth_module, "_SOURCE", source)
    with pytest.raises(TruthError, match="oops"), true_server(Timing()):
        pass


@pytest.mark.parametrize("start", ["burst", "staggered"])
def test_the_meters_error_is_small_and_known(start):
    timing = Timing(ttft_s=0.05, itl_s=0.02, events=15)
    row = asyncio.run(measure(20, Setting(timing=timing, rounds=2, start=start)))
    assert (row.streams, row.start) == (20, start)
    assert row.reason is None or "late" in row.reason  # every answer came, whole
    # Medians hardly feel a busy machine: stamps are the kernel's, on both sides.
    assert row.ttft_error_ms.p50 < 0.5
    assert row.itl_error_ms.p50 < 0.5
    assert row.ttft_error_ms.p50 <= row.ttft_error_ms.p99
    assert 0 < row.chunks_per_s < 20 / 0.02
    assert 0 < row.ideal_share <= 1.01
    assert row.cpu_s_per_1000_chunks > 0


def test_answers_that_are_missing_make_a_row_invalid(monkeypatch):
    real = truth_module._read

    def forgetful(path, itl_ns):
        answers = real(path, itl_ns)
        answers[-1].id = -1
        return answers

    monkeypatch.setattr(truth_module, "_read", forgetful)
    row = asyncio.run(measure(2, Setting(timing=Timing(ttft_s=0.01, itl_s=0.001, events=3))))
    assert not row.valid
    assert row.reason is not None


def test_a_late_server_makes_a_row_invalid(monkeypatch):
    monkeypatch.setattr(truth_module.Truth, "late_ms_p99", 1.5)
    row = asyncio.run(measure(2, Setting(timing=Timing(ttft_s=0.01, itl_s=0.001, events=3))))
    assert not row.valid
    assert "late by 1.5 ms" in row.reason


def test_the_command_prints_a_list_of_rows():
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "selftest", "--streams", "1,3", "--json",
         "--itl", "10", "--events", "5", "--rounds", "1"],
        capture_output=True, check=True, text=True, timeout=120,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert [row["streams"] for row in rows] == [1, 3]
    for row in rows:
        for error in ("ttft_error_ms", "itl_error_ms"):
            assert set(row[error]) == {"mean", "p50", "p99"}
            assert all(value >= 0 for value in row[error].values())
        assert row["server_late_ms_p99"] >= 0
        assert row["chunks_per_s"] > 0
        assert row["valid"] is (row["reason"] is None)
        msgspec.convert(row, Row)


def test_the_command_refuses_what_is_no_list_of_counts():
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "selftest", "--streams", "1,x"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "1,100,1000" in done.stderr
