"""An engine process that dies is started again, and nobody waits for an answer that never comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.serve import supervisor
from penstock.serve.client import EngineClient, EngineDied
from penstock.serve.supervisor import Supervisor
from tests.serve.conftest import Server, StartEmbedded, StartFake
from tests.serve.fake_engine import DIE, HANG, STARVE

TEXT = "/v1/completions"
OK = {"prompt": "abc", "max_tokens": 3}
FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]


def kill_engine(server: Server) -> None:
    os.kill(server.engine_pid(), signal.SIGKILL)


def test_while_a_new_engine_loads_the_server_says_so(start_fake: StartFake) -> None:
    with start_fake(FAKE_LOAD_S="1.5") as server:
        assert server.post(TEXT, OK).status == 200
        made = server.metric("generation_tokens_total")
        kill_engine(server)
        server.eventually(lambda: server.get("/health").status == 503, "not healthy")
        for answer in (server.get("/health"), server.post(TEXT, OK)):
            assert (answer.status, answer.body["error"]["code"]) == (503, "restarting")
            assert "status -9" in answer.body["error"]["message"]
            # As long as the first load took, and no longer.
            assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert server.metric("engine_up") == 0
        assert server.metric('kv_pages{state="total"}') == 0, "there is no pool now"
        assert server.metric("generation_tokens_total") == made
        server.eventually(lambda: server.get("/health").status == 200, "healthy again", 20)
        assert server.metric("engine_up") == server.metric("engine_restarts_total") == 1
        assert server.post(TEXT, OK).status == 200
        assert server.metric("generation_tokens_total") == made + 3, "counters go on"
        assert server.metric('kv_pages{state="total"}') > 0


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(HANG, id="step hangs"),
        pytest.param(STARVE, id="no step possible", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_stalls_for_long_is_replaced(start_fake: StartFake, poison: int) -> None:
    options = {"stall_after_s": 0.3, "kill_stalled_after_s": 1.5}
    with start_fake(server=options) as server, ThreadPoolExecutor(2) as pool:
        stuck = [
            pool.submit(server.post, TEXT, {"prompt": [65, poison], "stream": stream})
            for stream in (False, True)
        ]
        for answer in (asking.result(timeout=10) for asking in stuck):
            # An engine that starves had accepted them: a stream has begun by then.
            said = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            assert "engine_dead" in said
            assert "completed no step for" in said
        server.eventually(lambda: server.get("/health").status == 200, "healthy again", 20)
        assert server.post(TEXT, OK).status == 200


def test_stopping_while_the_engine_loads_again(start_fake: StartFake) -> None:
    with start_fake(FAKE_LOAD_S="1") as server:
        kill_engine(server)
        server.eventually(lambda: server.metric("engine_up") == 0, "dead")
        assert server.stop() == 0


def test_an_engine_that_dies_at_every_request_does_not_make_the_server_spin(
    start_fake: StartFake,
) -> None:
    with start_fake() as server:
        until = time.monotonic() + 4
        codes: Counter[str] = Counter()
        while time.monotonic() < until:
            answer = server.post(TEXT, {"prompt": [DIE]})
            codes[answer.body["error"]["code"]] += 1
            time.sleep(0.01)
        assert codes.keys() == {"engine_dead", "restarting"}
        # With pauses of 0, 0.5, 1 and 2 s there is no time for more.
        assert 2 <= server.metric("engine_restarts_total") <= 4
        assert codes["engine_dead"] <= 5
        server.eventually(lambda: server.post(TEXT, OK).status == 200, "serves", 30)


async def test_failed_starts_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(supervisor, "_pause_s", lambda tries: pauses.append(tries) or 0.01)
    start = partial(EngineClient.start, "fake", EngineOptions(), FAKE)
    failures: list[Exception] = [
        EngineDied("The weights are gone."),
        OSError("no more processes"),
        RuntimeError("unforeseen"),
    ]
    starts = 0

    async def sometimes() -> EngineClient:
        nonlocal starts
        starts += 1
        if starts > 1 and failures:
            raise failures.pop(0)
        return await start()

    def request(name: str, prompt: list[int]) -> GenerateRequest:
        return GenerateRequest(id=name, prompt=prompt, params=SamplingParams(max_tokens=2))

    async with await Supervisor.start(sometimes, kill_stalled_after_s=0) as engine:
        with pytest.raises(EngineDied, match="status 7"):
            async with await engine.generate(request("a", [DIE])) as generation:
                await anext(generation)
        async with asyncio.timeout(20):
            while engine.dead is not None:
                await asyncio.sleep(0.01)
        assert starts == 5
        assert pauses == [0, 1, 2, 3]
        assert engine.restarts == 1
        async with await engine.generate(request("b", [1, 2])) as generation:
            assert [token async for delta in generation for token in delta.token_ids] == [1, 2]


async def test_a_first_start_that_fails_is_not_tried_again() -> None:
    async def never() -> EngineClient:
        raise EngineDied("holds no weights")

    with pytest.raises(EngineDied, match="no weights"):
        await Supervisor.start(never, kill_stalled_after_s=0)


def test_pauses_double_and_are_bounded() -> None:
    assert [supervisor._pause_s(tries) for tries in range(5)] == [0, 0.5, 1, 2, 4]
    assert supervisor._pause_s(100) == 30


CLIENTS = 40


def test_kill_9_under_load(start_embedded: StartEmbedded) -> None:
    """No client hangs, each learns what happened, and within 10 s the server serves again."""
    with start_embedded("--max-running", "16") as server:
        counts: Counter[str] = Counter()
        killed, served_again = asyncio.run(_storm(server, counts))
        assert server.metric("engine_restarts_total") == 1
        server.eventually(server.at_rest, "nothing is left of the storm")
        assert server.metric('requests_total{outcome="engine_dead"}') == counts["engine_dead"]
    print(counts, f"served again after {served_again - killed:.1f} s")
    assert served_again - killed < 10
    assert counts.keys() <= {"finished", "engine_dead", "restarting"}
    assert counts["finished"] > 0
    # More were open than ran: those that waited heard of it too.
    assert counts["engine_dead"] >= CLIENTS / 2
    assert counts["restarting"] > 0


async def _storm(server: Server, counts: Counter[str]) -> tuple[float, float]:
    """Kill the engine among busy clients; return when, and when a request was served again."""
    stop = asyncio.Event()
    clients = [
        asyncio.create_task(_client(server.address, n % 2 == 0, stop, counts))
        for n in range(CLIENTS)
    ]
    while counts["finished"] < 5:
        await asyncio.sleep(0.05)
    killed = time.monotonic()
    kill_engine(server)
    before = -1
    while before < 0 or counts["finished"] == before:
        if counts["engine_dead"] and before < 0:
            before = counts["finished"]
        assert time.monotonic() - killed < 30, counts
        await asyncio.sleep(0.02)
    served_again = time.monotonic()
    stop.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*clients)
    return killed, served_again


async def _client(
    address: tuple[str, int], stream: bool, stop: asyncio.Event, counts: Counter[str]
) -> None:
    body = {"prompt": "def f(", "max_tokens": 30, "ignore_eos": True, "stream": stream}
    while not stop.is_set():
        end = await asyncio.wait_for(_ask(address, body), 30)
        counts[end] += 1
        # Who is told to come back later does, though sooner than told.
        await asyncio.sleep(0.05 if end == "finished" else 0.5)


async def _ask(address: tuple[str, int], body: dict[str, object]) -> str:
    """How one request ended: "finished", or the code of its error."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        data = json.dumps(body).encode()
        writer.write(
            f"POST {TEXT} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        answer = (await reader.read(-1)).decode()
    finally:
        writer.close()
    if '"error"' in answer:
        assert "[DONE]" not in answer
        return str(json.loads(answer[answer.index('{"error"') :].split("\n")[0])["error"]["code"])
    assert '"finish_reason":"length"' in answer, answer
    assert "[DONE]" in answer or not body["stream"]
    return "finished"
