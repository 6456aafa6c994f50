"""Whatever arrives on the socket: no 5xx, no hang, and the next client is served."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.conftest import Server, StartFake

TEXT = "/v1/completions"
OK = {"prompt": "abc", "max_tokens": 3}
BODY = json.dumps(OK).encode()
HEAD = b"Host: a\r\nContent-Type: application/json\r\n"
GOOD = (
    b"POST /v1/completions HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
)
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def server(start_fake: StartFake) -> Iterator[Server]:
    with start_fake(server={"body_timeout_s": 1.5}) as server:
        yield server
        server.eventually(server.at_rest, "at rest")
        assert server.get("/health").status == 200
        assert server.stop() == 0


def talk(server: Server, data: bytes) -> list[int]:
    """Send `data`, read until the server closes; the statuses of its answers."""
    with socket.create_connection(server.address, timeout=10) as connection:
        answer = b""
        # Where it has heard enough.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                answer += part
    return [int(status) for status in STATUS.findall(answer)]


def closing(request: bytes) -> bytes:
    return request.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n", 1)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "GET"])
@pytest.mark.parametrize("path", [TEXT, "/health", "/metrics", "/v1/models", "/", "/nowhere"])
def test_methods(server: Server, method: str, path: str) -> None:
    (status,) = talk(server, closing(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))
    known = path not in ("/", "/nowhere")
    served = method == "GET" and path != TEXT
    assert status == (404 if not known else 200 if served else 405)


GARBAGE = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"BREW /health HTTP/1.1\r\n\r\n",
    "bad header": b"GET /health HTTP/1.1\r\nHost a\r\n\r\n",
    "bad length": b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Content-Length: 6\r\n\r\n{}{}{}",
    "length and chunks": b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}{}{",
    "bad chunk": b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "endless chunk": b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "control characters": b"GET /health HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "not a path": b"GET http:///// HTTP/1.1\r\nHost: a\r\n\r\n",
    "path that is no ascii": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(server: Server, data: bytes) -> None:
    statuses = talk(server, data)
    assert statuses
    assert all(400 <= status < 500 for status in statuses), statuses
    assert server.post(TEXT, OK).status == 200


def test_a_refusal_has_our_shape(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(GARBAGE["bad header"])
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_http"


FLOODS = {
    "one long header": b"GET /health HTTP/1.1\r\nX: " + b"a" * 20_000_000,
    "many headers": b"GET /health HTTP/1.1\r\n" + b"X-Header: a\r\n" * 10**6,
    "a long url": b"GET /" + b"a" * 20_000_000,
    "a long name": b"GET /health HTTP/1.1\r\n" + b"a" * 20_000_000,
    "just too long, whole": b"GET /health HTTP/1.1\r\nX: " + b"a" * 66_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS)
def test_floods_of_headers(server: Server, data: bytes) -> None:
    assert talk(server, data) in ([431], [])  # [] where our sending outran its answer
    assert server.get("/health").status == 200


def test_long_headers_within_the_limit(server: Server) -> None:
    headers = b"Authorization: Bearer " + b"k" * 30_000 + b"\r\nCookie: " + b"c" * 30_000 + b"\r\n"
    assert talk(server, closing(GOOD.replace(b"Host: a\r\n", b"Host: a\r\n" + headers))) == [200]


def test_pipelining(server: Server) -> None:
    assert talk(server, GOOD * 20 + closing(GOOD)) == [200] * 21
    bad = GOOD.replace(b'"prompt"', b'"prumpt"')
    assert talk(server, GOOD + bad + GOOD + closing(bad)) == [200, 400, 200, 400]
    assert talk(server, GOOD + b"nonsense\r\n\r\n")[0] in (200, 400)


def test_requests_in_pieces(server: Server) -> None:
    rng = random.Random(5)
    for _ in range(20):
        cuts = sorted(rng.randrange(len(GOOD)) for _ in range(rng.randrange(1, 12)))
        with socket.create_connection(server.address, timeout=10) as connection:
            for start, end in zip([0, *cuts], [*cuts, len(GOOD)], strict=True):
                connection.sendall(GOOD[start:end])
            assert b"200 OK" in connection.recv(1 << 16)


def test_half_requests_and_gone(server: Server) -> None:
    rng = random.Random(6)

    def one(place: int) -> None:
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(GOOD[:place])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, [rng.randrange(len(GOOD)) for _ in range(300)]))
    assert server.post(TEXT, OK).status == 200


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"nonsense"])
def test_offers_to_upgrade(server: Server, upgrade: bytes) -> None:
    offer = b"Host: a\r\nConnection: Upgrade, close\r\nUpgrade: " + upgrade + b"\r\n"
    get = b"GET /health HTTP/1.1\r\n" + offer + b"\r\n"
    assert talk(server, get) == [200], "passed over"
    assert talk(server, GOOD + get) == [200, 200]
    # With a body it cannot be passed over, and must not look like an empty one.
    post = GOOD.replace(b"Host: a\r\n", offer)
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(post)
        assert b"upgrade_not_served" in connection.recv(1 << 16)


def test_random_bytes(server: Server) -> None:
    rng = random.Random(7)
    for _ in range(60):
        data = bytearray(GOOD * rng.randrange(1, 3))
        for _ in range(rng.randrange(1, 20)):
            place = rng.randrange(len(data))
            kind = rng.randrange(3)
            if kind == 0:
                data[place] = rng.randrange(256)
            elif kind == 1:
                del data[place : place + rng.randrange(9)]
            else:
                data[place:place] = rng.randbytes(rng.randrange(9))
        statuses = talk(server, bytes(data))
        assert all(200 <= status < 500 for status in statuses), bytes(data)
    assert server.post(TEXT, OK).status == 200


def test_expect_continue(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        head, _, body = GOOD.partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b"200 OK" in connection.recv(1 << 16)
