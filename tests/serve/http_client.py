"""A small HTTP client that shows what the wire carries, and can hang up."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

TIMEOUT_S = 20


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def get(address: tuple[str, int], path: str) -> Answer:
    return _ask(address, "GET", path, None)


def post(address: tuple[str, int], path: str, body: Any) -> Answer:
    return _ask(address, "POST", path, body if isinstance(body, bytes) else json.dumps(body))


def _ask(address: tuple[str, int], method: str, path: str, body: bytes | str | None) -> Answer:
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        is_json = headers.get("content-type") == "application/json"
        return Answer(response.status, headers, json.loads(data) if is_json else data.decode())
    finally:
        connection.close()


def events(address: tuple[str, int], path: str, body: dict[str, Any]) -> Iterator[Any]:
    """Yield each event's JSON, and "[DONE]" itself."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request(
            "POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
        for line in response:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)
    finally:
        connection.close()


def post_and_hold(address: tuple[str, int], path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and return the connection, its answer unread."""
    connection = socket.create_connection(address, timeout=TIMEOUT_S)
    send(connection, path, body)
    return connection


def send(connection: socket.socket, path: str, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)


def metric(address: tuple[str, int], name: str) -> float:
    """One sample of /metrics, by its full name with labels."""
    text = get(address, "/metrics").body
    found = re.search(rf"^penstock:{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in:\n{text}"
    return float(found[1])
