"""Client gone means aborted, whatever it was waiting for."""

from __future__ import annotations

import pytest

from tests.serve import http_client
from tests.serve.conftest import Server, StartFake

LONG = {"prompt": "for ever ", "max_tokens": 2000}


@pytest.fixture(scope="module")
def slow(start_fake: StartFake):
    """Ten seconds and more for one long answer; one request runs at a time."""
    with start_fake(engine={"max_running": 1, "max_waiting": 10}, step_s=0.01) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["running", "waiting"])
def test_hanging_up_frees_everything(slow: Server, stream: bool, place: str) -> None:
    cancelled = 'requests_total{outcome="cancelled"}'
    before = slow.metric(cancelled)
    first = http_client.post_and_hold(slow.address, "/v1/completions", LONG | {"stream": stream})
    slow.eventually(lambda: slow.metric("num_requests_running") == 1, "the first runs")
    if place == "waiting":
        second = http_client.post_and_hold(
            slow.address, "/v1/completions", LONG | {"stream": stream}
        )
        slow.eventually(lambda: slow.metric("num_requests_waiting") == 1, "the second waits")
        second.close()
        slow.eventually(lambda: slow.metric("num_requests_waiting") == 0, "the second is gone", 2)
        assert slow.metric("num_requests_running") == 1
    first.close()
    slow.eventually(slow.at_rest, "no page held after hanging up", 2)
    gone = before + (2 if place == "waiting" else 1)
    slow.eventually(lambda: slow.metric(cancelled) == gone, "counted")
    assert slow.get("/health").status == 200


def test_hanging_up_in_the_middle_of_a_stream(slow: Server) -> None:
    coming = http_client.events(slow.address, "/v1/completions", LONG)
    for _ in range(5):
        next(coming)
    coming.close()
    slow.eventually(slow.at_rest, "no page held after hanging up", 2)


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("prompt", ["short", "long " * 4_000])
def test_hanging_up_with_more_requests_in_the_pipe(slow: Server, when: str, prompt: str) -> None:
    """It is the first of them that runs, and what follows is not read before its turn."""
    connection = http_client.post_and_hold(slow.address, "/v1/completions", LONG)
    if when == "later":
        slow.eventually(lambda: slow.metric("num_requests_running") == 1, "the first runs")
    for stream in (True, False):
        body = LONG | {"stream": stream, "prompt": prompt}
        http_client.send(connection, "/v1/completions", body)
    slow.eventually(lambda: slow.metric("num_requests_running") == 1, "the first runs")
    connection.close()
    slow.eventually(slow.at_rest, "no page held after hanging up", 2)
