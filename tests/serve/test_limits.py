"""Nobody holds more than a share: of places, of memory, of a connection's time."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from penstock.serve.options import ServeOptions
from tests.serve import http_client
from tests.serve.conftest import Server, StartFake

TEXT = "/v1/completions"
OK = {"prompt": "abc", "max_tokens": 3}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and error of what comes until the server closes the connection."""
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_more_open_requests_than_allowed(start_fake: StartFake) -> None:
    with start_fake(server={"max_open": 3}, step_s=0.01) as server:
        long = {"prompt": "abc", "max_tokens": 2000}
        held = [
            http_client.post_and_hold(server.address, TEXT, long | {"stream": n == 1})
            for n in range(2)
        ]
        # A body that does not come holds a place too: it may hold memory.
        held.append(socket.create_connection(server.address, timeout=10))
        held[2].sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        server.eventually(lambda: server.post(TEXT, OK).status == 429, "all places are taken")
        refused = server.post(TEXT, OK)
        assert refused.body["error"]["code"] == "too_many_requests"
        assert "3 requests are open" in refused.body["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert server.get("/health").status == 200, "probes find a place"
        held.pop().close()
        server.eventually(lambda: server.post(TEXT, OK).status == 200, "a place is free")
        for connection in held:
            connection.close()


SLOW = {
    "nothing": b"",
    "half a request line": b"POST /v1/comp",
    "half a head": HEAD,
    "no body": HEAD + b"Content-Length: 100\r\n\r\n",
    "half a body": HEAD + b"Content-Length: 100\r\n\r\n{" + b" " * 50,
    "half of chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{    \r\n",
}


@pytest.fixture(scope="module")
def hasty(start_fake: StartFake):
    with start_fake(server={"body_timeout_s": 0.7}, step_s=0.005) as server:
        yield server


@pytest.mark.parametrize("drip", [False, True])
def test_a_request_that_does_not_arrive(hasty: Server, drip: bool) -> None:
    with ThreadPoolExecutor(len(SLOW)) as pool:
        waits = {n: pool.submit(_wait_for_408, hasty, sent, drip) for n, sent in SLOW.items()}
        waited_s = {name: wait.result() for name, wait in waits.items()}
    assert all(0.6 < seconds < 3 for seconds in waited_s.values()), waited_s
    hasty.eventually(hasty.at_rest, "at rest")
    assert hasty.get("/health").status == 200


def _wait_for_408(server: Server, sent: bytes, drip: bool) -> float:
    """Send it, at once or byte by byte, and wait for the refusal; seconds that took."""
    with socket.create_connection(server.address, timeout=10) as connection:
        began = time.monotonic()
        if drip and sent:
            for place in range(len(sent)):  # a byte now and then does not win time
                connection.sendall(sent[place : place + 1])
                time.sleep(0.5 / len(sent))
        else:
            connection.sendall(sent)
        status, error = answer_of(connection)
        assert (status, error["code"]) == (408, "request_timeout"), sent
        return time.monotonic() - began


def test_a_slow_request_on_a_used_connection(hasty: Server) -> None:
    with socket.create_connection(hasty.address, timeout=10) as connection:
        http_client.send(connection, TEXT, OK)
        data = connection.recv(1)
        connection.sendall(HEAD)
        while part := connection.recv(1 << 16):
            data += part
        assert data.index(b"HTTP/1.1 200 OK") < data.index(b"HTTP/1.1 408")


def test_a_long_answer_is_not_a_slow_request(hasty: Server) -> None:
    """The next request, or a part of it, waits while the first is answered."""
    with socket.create_connection(hasty.address, timeout=10) as connection:
        http_client.send(connection, TEXT, {"prompt": "abc", "max_tokens": 180, "stream": True})
        http_client.send(connection, TEXT, {"prompt": "abc", "max_tokens": 180})
        connection.sendall(HEAD + b"Content-Le")
        data, began = b"", time.monotonic()
        while part := connection.recv(1 << 16):
            data += part
        assert time.monotonic() - began > 2 * 0.7, "longer than a request may take to come"
        assert data.count(b"HTTP/1.1 200 OK") == 2
        assert data.count(b"HTTP/1.1 408") == 1, "the third never came"


def test_who_does_not_read_is_cut_off(start_fake: StartFake) -> None:
    get = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with start_fake(server={"write_timeout_s": 1.0}) as server:
        long = len(server.get("/metrics").body)
        deaf = []
        for n in range(6):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(server.address)
            connection.setblocking(False)
            # More than the kernel takes for us; then for some the end, and unread too.
            with contextlib.suppress(BlockingIOError):
                connection.sendall(get * (12_000_000 // long if n % 2 else 100) + last)
            deaf.append(connection)
        server.eventually(lambda: _open_connections(server) == 0, "cut off", 30)
        assert server.post(TEXT, OK).status == 200
        for connection in deaf:
            connection.close()


def _open_connections(server: Server) -> int:
    process = psutil.Process(server.process.pid)
    return sum(c.status != "LISTEN" for c in process.net_connections("tcp"))


def test_a_slow_reader_is_not_a_deaf_one(start_fake: StartFake) -> None:
    with start_fake(server={"write_timeout_s": 1.0}, step_s=0.0002) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.address)
        connection.settimeout(10)
        stream = {"prompt": "abc", "max_tokens": 2000, "stream": True}
        http_client.send(connection, TEXT, stream)
        data = b""
        while b"[DONE]" not in data:
            time.sleep(0.02)
            part = connection.recv(8192)
            assert part, data[-200:]
            data += part
        connection.close()


def test_a_body_over_the_limit(start_fake: StartFake) -> None:
    with start_fake(server={"max_body": 1000}) as server:
        assert server.post(TEXT, OK).status == 200
        answer = server.post(TEXT, {"prompt": "a" * 1000})
        assert answer.status == 413
        assert "1,000 bytes" in answer.body["error"]["message"]


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_s": 0}, {"max_open": 0}, {"max_body": -1}, {"write_timeout_s": 0}],
)
def test_options_out_of_range_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        ServeOptions(**wrong)  # type: ignore[arg-type]


def test_many_slow_ones_do_not_delay_the_quick(hasty: Server) -> None:
    held = [socket.create_connection(hasty.address, timeout=10) for _ in range(100)]
    for connection in held:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: hasty.post(TEXT, OK).status, range(20)))
    assert answers == [200] * 20
    for connection in held:
        assert answer_of(connection)[0] == 408
        connection.close()


@pytest.mark.parametrize("path", [TEXT, "/v1/chat/completions"])
def test_a_text_that_cannot_fit_is_not_encoded(hasty: Server, path: str) -> None:
    text = "a" * 12_000_000
    chat = path != TEXT
    body = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    answer = hasty.post(path, body)
    assert answer.status == 400
    error = answer.body["error"]
    assert error["param"] == ("messages" if chat else "prompt")
    assert "12,000,0" in error["message"]
    # Of 2,048 tokens; the longest here is <|end|>.
    assert "14,336 characters" in error["message"]
