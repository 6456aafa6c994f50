"""A client that does not read delays nobody, and misses nothing."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from tests.serve import http_client
from tests.serve.conftest import StartFake

TEXT = "/v1/completions"
# Tokens of these answers are held back by the socket's buffers, not by ours.
HELD = 24
BODY = {
    "prompt": "0123456789",
    "max_tokens": 2000,
    "stream": True,
    "stream_options": {"continuous_usage_stats": True},
}


def test_unread_streams_delay_nobody_and_lose_nothing(start_fake: StartFake) -> None:
    with start_fake(step_s=0.0005) as server:
        held = []
        for _ in range(HELD):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(server.address)
            connection.settimeout(20)
            http_client.send(connection, TEXT, BODY)
            held.append(connection)
        server.eventually(lambda: server.metric("num_requests_running") == HELD, "all run")
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            quick = {"prompt": "abc", "max_tokens": 20}
            answers = list(pool.map(lambda _: server.post(TEXT, quick), range(40)))
        assert all(answer.status == 200 for answer in answers)
        assert time.monotonic() - started < 5
        # The engine ends them all though nobody reads, and gives their pages back.
        server.eventually(
            lambda: server.metric("generation_tokens_total") == HELD * 2000 + 800, "all end", 20
        )
        server.eventually(lambda: server.metric("num_requests_running") == 0, "nothing runs")
        events = [_read(connection) for connection in held]
    for chunks in events:
        assert chunks[-1] == "[DONE]"
        replies = [json.loads(chunk) for chunk in chunks[:-1]]
        assert "".join(r["choices"][0]["text"] for r in replies) == "0123456789" * 200
        counts = [reply["usage"]["completion_tokens"] for reply in replies]
        assert counts == sorted(set(counts))
        assert counts[-1] == 2000
    # Where nobody read, tokens came together. How many is up to the socket's buffers.
    assert min(len(chunks) for chunks in events) < 2000


def _read(connection: socket.socket) -> list[str]:
    data = b""
    with connection:
        while b"[DONE]" not in data:
            part = connection.recv(1 << 16)
            assert part, data[-200:]
            data += part
    return re.findall(r"^data: (.*)$", data.decode(), re.MULTILINE)
