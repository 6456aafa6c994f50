"""SIGTERM at any moment of a start: status 0, and no process left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.serve.conftest import PATHS

COMMAND = [sys.executable, "-m", "penstock", "serve", "embedded", "--port", "0", "--threads", "1"]


def start(tmp: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=(tmp / f"stderr{time.monotonic_ns()}").open("w"),
        text=True,
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp)},
    )


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_for_the_command(process: subprocess.Popen[str]) -> None:
    """Until its first line has run; before, it is Python that is starting."""
    deadline = time.monotonic() + 30
    while not catches_sigterm(process.pid):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def start_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds from the command's first line to the line that says it serves."""
    process = start(tmp_path_factory.mktemp("start"))
    wait_for_the_command(process)
    began = time.monotonic()
    assert process.stdout is not None
    assert process.stdout.readline()
    took = time.monotonic() - began
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    return took


@pytest.mark.parametrize(
    ("number", "moments"),
    [
        pytest.param(signal.SIGTERM, 4, id="SIGTERM"),
        pytest.param(signal.SIGTERM, 40, id="SIGTERM, many", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 20, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_any_moment(
    start_s: float, tmp_path: Path, number: signal.Signals, moments: int
) -> None:
    rng = random.Random(11)

    def one(after_s: float | None) -> int:
        process = start(tmp_path)
        wait_for_the_command(process)
        family = psutil.Process(process.pid)
        if after_s is None:  # as soon as it serves
            assert process.stdout is not None
            assert process.stdout.readline()
        else:
            time.sleep(after_s)
        children = family.children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=20)
        _, alive = psutil.wait_procs(children, timeout=2)
        assert not alive, f"left behind after {after_s} s"
        return process.returncode

    when = [rng.uniform(0, 1.3 * start_s) if n % 4 else None for n in range(moments)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, when)) == [0] * moments
    for log in tmp_path.glob("stderr*"):
        assert "Traceback" not in log.read_text()
        assert "Exception" not in log.read_text()
    assert not list(tmp_path.glob("penstock-*")), "no socket's folder left"


def test_signals_over_and_over(tmp_path: Path) -> None:
    """Ten signals in a row are no worse than two."""
    process = start(tmp_path)
    wait_for_the_command(process)
    time.sleep(1.0)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.wait() == 0
