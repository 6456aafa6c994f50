"""Health is progress, and an engine that dies takes nobody's answer with it in silence."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve import http_client
from tests.serve.conftest import Server, StartFake
from tests.serve.fake_engine import DIE, HANG, RAISE, STARVE

TEXT = "/v1/completions"
OK = {"prompt": "abc", "max_tokens": 3}


def health(server: Server) -> tuple[int, str | None]:
    answer = server.get("/health")
    return answer.status, answer.body.get("error", {}).get("code")


@pytest.mark.parametrize("poison", [HANG, STARVE], ids=["step hangs", "no step possible"])
def test_a_stalled_engine_is_not_healthy(start_fake: StartFake, poison: int) -> None:
    with start_fake(server={"stall_after_s": 0.5}) as server:
        time.sleep(0.7)
        assert health(server) == (200, None), "idle is not stalled"
        assert server.post(TEXT, OK).status == 200
        held = http_client.post_and_hold(server.address, TEXT, {"prompt": [65, poison]})
        server.eventually(lambda: health(server) == (503, "engine_stalled"), "503")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:  # though a starved engine reports now and then
            assert health(server) == (503, "engine_stalled")
            time.sleep(0.05)
        refused = server.post(TEXT, OK)
        assert (refused.status, refused.body["error"]["code"]) == (503, "engine_stalled")
        if poison == HANG:
            held.close()
            server.eventually(lambda: server.metric("num_requests_open") == 0, "hung up")
            time.sleep(0.1)
            assert health(server) == (503, "engine_stalled"), "it hangs still, asked or not"


def test_slow_steps_are_progress(start_fake: StartFake) -> None:
    with start_fake(server={"stall_after_s": 1.0}, step_s=0.4) as server:
        held = http_client.post_and_hold(server.address, TEXT, {"prompt": "abc", "max_tokens": 99})
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert health(server) == (200, None)
            time.sleep(0.02)
        held.close()


@pytest.mark.parametrize("how", ["kill -9", "exit", "exception"])
def test_a_dead_engine_ends_every_request(start_fake: StartFake, how: str) -> None:
    long = {"prompt": "abc", "max_tokens": 2000}
    with start_fake(step_s=0.01) as server, ThreadPoolExecutor(17) as pool:
        plain = [pool.submit(server.post, TEXT, long) for _ in range(8)]
        streams = [pool.submit(server.events, TEXT, long) for _ in range(8)]
        server.eventually(lambda: server.metric("num_requests_running") == 16, "16 run")
        if how == "kill -9":
            os.kill(server.engine_pid(), signal.SIGKILL)
        else:
            poison = {"prompt": [DIE if how == "exit" else RAISE]}
            plain.append(pool.submit(server.post, TEXT, poison))
        statuses = {answer.result(timeout=40).status for answer in plain}
        lasts = [stream.result(timeout=40)[-1] for stream in streams]
        assert statuses == {503}
        assert {event["error"]["code"] for event in lasts} == {"engine_dead"}
        assert server.metric("num_requests_open") == 0
        assert server.stop() == 0
