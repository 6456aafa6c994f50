"""Starting says what is wrong; stopping leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from penstock import cli
from tests.serve import http_client
from tests.serve.conftest import PATHS, Server, StartFake

TEXT = "/v1/completions"
HERE = Path(__file__).parent


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def serve(model: Path, port: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            HERE / "fake_server.py",
            str(model),
            "{}",
            json.dumps({"port": port}),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": PATHS},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly(
    start_fake: StartFake, number: signal.Signals, tmp_path: Path
) -> None:
    with start_fake(TMPDIR=str(tmp_path)) as server:
        engine = server.engine_pid()
        assert not list(tmp_path.iterdir()), "a killed server must leave nothing behind either"
        server.process.send_signal(number)
        assert server.process.wait(timeout=10) == 0
        assert gone(engine)
        assert server.process.stdout.read() == b"", "one line on stdout, and no more"


def test_draining_finishes_what_runs_and_takes_nothing_new(start_fake: StartFake) -> None:
    with start_fake(server={"drain_s": 30}, step_s=0.01) as server, ThreadPoolExecutor(2) as pool:
        body = {"prompt": "abc", "max_tokens": 250}
        running = pool.submit(server.post, TEXT, body)
        server.eventually(lambda: server.metric("num_requests_running") == 1, "it runs")
        server.process.send_signal(signal.SIGTERM)
        server.eventually(lambda: server.get("/health").status == 503, "draining")
        refused = server.post(TEXT, body)
        assert (refused.status, refused.body["error"]["code"]) == (503, "draining")
        answer = running.result(timeout=10)
        assert answer.body["usage"]["completion_tokens"] == 250
        assert server.process.wait(timeout=10) == 0


@pytest.mark.parametrize("again", [True, False], ids=["a second signal", "the time is up"])
def test_draining_ends(start_fake: StartFake, again: bool) -> None:
    options = {"drain_s": 30 if again else 0.3}
    with start_fake(server=options, step_s=0.05) as server, ThreadPoolExecutor(2) as pool:
        body = {"prompt": "abc", "max_tokens": 2000}
        plain = pool.submit(server.post, TEXT, body)
        stream = pool.submit(server.events, TEXT, body)
        server.eventually(lambda: server.metric("num_requests_running") == 2, "both run")
        server.process.send_signal(signal.SIGTERM)
        server.eventually(lambda: server.get("/health").status == 503, "draining")
        if again:
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0
        assert plain.result().status == 503
        assert "stopping" in stream.result()[-1]["error"]["message"]


def test_a_killed_server_takes_its_engine_along(start_fake: StartFake) -> None:
    with start_fake() as server:
        engine = server.engine_pid()
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 5
        while not gone(engine):
            assert time.monotonic() < deadline, "the engine process is an orphan"
            time.sleep(0.02)


def test_a_model_that_does_not_load_is_said(byte_folder: Path) -> None:
    broken = byte_folder.with_name("broken")
    if not broken.exists():
        broken.symlink_to(byte_folder)
    ended = serve(broken)
    assert ended.returncode == 1
    assert "holds no weights" in ended.stderr
    assert ended.stdout == ""


def test_a_taken_port_is_said(byte_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = serve(byte_folder, port)
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr


def test_a_signal_while_loading_stops_cleanly(byte_folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, HERE / "fake_server.py", str(byte_folder), "{}", '{"port": 0}'],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": PATHS, "FAKE_LOAD_S": "60"},
    )
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 10
    while not parent.children():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (engine,) = parent.children()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0
    assert gone(engine.pid)
    assert process.stdout is not None
    assert process.stdout.read() == b""


def test_the_server_process_never_loads_torch(fake: Server) -> None:
    assert fake.post(TEXT, {"prompt": "a", "max_tokens": 1}).status == 200
    maps = Path(f"/proc/{fake.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, penstock.cli.serve, penstock.serve.server; print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "False\n"


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    result = CliRunner().invoke(cli.app, ["serve", "embedded"])
    assert result.exit_code == 1
    assert "pip install 'penstock[engine]'" in result.stderr
    assert "torch" in result.stderr


def test_a_model_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(cli.app, ["serve", "/no/such/model", "--port", "0"])
    assert result.exit_code == 1
    assert "penstock serve: model '/no/such/model' is neither" in result.stderr


def test_many_connections_cost_the_others_nothing(fake: Server) -> None:
    """Idle connections and half-sent requests hold no place in the engine."""
    held = [socket.create_connection(fake.address) for _ in range(100)]
    for connection in held[::2]:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert http_client.post(fake.address, TEXT, {"prompt": "a", "max_tokens": 1}).status == 200
    for connection in held:
        connection.close()
    fake.eventually(fake.at_rest, "at rest")
