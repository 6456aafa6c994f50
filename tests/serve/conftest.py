"""Real servers in their own processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest

from tests.serve import byte_model, http_client

REPO = Path(__file__).parents[2]
# This checkout, whichever is installed.
PATHS = os.pathsep.join([str(REPO / "src"), str(REPO)])


class Server:
    """A running server process; `address` is (host, port)."""

    def __init__(
        self, command: list[str], environment: dict[str, str], log: IO[str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"} | environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # pytest's own timeout bounds this
        assert line, f"the server ended with {self.process.wait()} before it was ready"
        self.ready: dict[str, str] = json.loads(line)
        url = urlsplit(self.ready["url"])
        assert url.hostname is not None
        assert url.port is not None
        self.address = (url.hostname, url.port)

    def get(self, path: str) -> http_client.Answer:
        return http_client.get(self.address, path)

    def post(self, path: str, body: Any) -> http_client.Answer:
        return http_client.post(self.address, path, body)

    def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        return list(http_client.events(self.address, path, body))

    def metric(self, name: str) -> float:
        return http_client.metric(self.address, name)

    def eventually(self, check: Callable[[], bool], what: str, within_s: float = 5.0) -> None:
        deadline = time.monotonic() + within_s
        while not check():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            time.sleep(0.02)

    def at_rest(self) -> bool:
        """Nothing runs, nothing waits, and no page is held."""
        metric = self.metric
        pages = {s: metric(f'kv_pages{{state="{s}"}}') for s in ("free", "held", "cached", "total")}
        return (
            metric("num_requests_running") == metric("num_requests_waiting") == 0
            and metric("num_requests_open") == 0
            and pages["held"] == 0
            and pages["free"] + pages["cached"] == pages["total"]
        )

    def engine_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (pid,) = children.split()
        return int(pid)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def running(command: list[str], log: IO[str] | None = None, **environment: str) -> Iterator[Server]:
    server = Server(command, environment, log)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_model.save(tmp_path_factory.mktemp("models") / "bytes")


StartFake = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start_fake(byte_folder: Path) -> StartFake:
    """Start a server over the fake engine: `start_fake(engine={...}, server={...}, step_s=...)`."""

    def start(
        engine: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        step_s: float = 0.001,
        log: IO[str] | None = None,
        **environment: str,
    ) -> contextlib.AbstractContextManager[Server]:
        command = [
            sys.executable,
            str(Path(__file__).with_name("fake_server.py")),
            str(byte_folder),
            json.dumps(engine or {}),
            json.dumps({"port": 0, "drain_s": 0, **(server or {})}),
        ]
        return running(command, log, FAKE_STEP_S=str(step_s), **environment)

    return start


StartEmbedded = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start_embedded() -> StartEmbedded:
    """Start `penstock serve embedded` with these options, and in this environment."""

    def start(*options: str, **environment: str) -> contextlib.AbstractContextManager[Server]:
        more = ["--port", "0", "--threads", "1", "--drain", "0", *options]
        command = [sys.executable, "-m", "penstock", "serve", "embedded", *more]
        return running(command, **environment)

    return start


@pytest.fixture(scope="module")
def fake(start_fake: StartFake) -> Iterator[Server]:
    """One server over the fake engine, with its defaults."""
    with start_fake() as server:
        yield server
