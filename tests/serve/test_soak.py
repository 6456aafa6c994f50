"""Many clients, half of which hang up, and too few pages: nothing is lost or forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.serve.conftest import Server, StartEmbedded

PAGE = 16
POOL_PAGES = 40  # about a fifth of what 32 of these requests want at once
LONGEST_PROMPT = 100
LONGEST_ANSWER = 60
ANSWER_WITHIN_S = 60.0


@dataclass
class Seen:
    """What the clients and the watcher saw."""

    ends: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    full: int = 0  # samples with no page free while work waits
    steps: float = 0.0


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [
        pytest.param(80, 4, id="short"),
        pytest.param(200, 60, id="long", marks=pytest.mark.slow),
    ],
)
def test_soak(start_embedded: StartEmbedded, clients: int, seconds: int) -> None:
    options = ["--max-running", "32", "--kv-tokens", str(POOL_PAGES * PAGE), "--stall-after", "10"]
    with start_embedded(*options) as server:
        seen = asyncio.run(_soak(server, clients, seconds))
        server.eventually(server.at_rest, "no page lost, nothing runs or waits")
        assert server.metric('requests_total{outcome="cancelled"}') > 0
        preemptions = server.metric("num_preemptions_total")
    print(f"{dict(seen.ends)}; {seen.steps:.0f} steps, {preemptions:.0f} preemptions")
    assert seen.ends.keys() == {"finished", "hung up"}
    assert min(seen.ends.values()) > clients / 4
    assert seen.samples > 3 * seconds
    # What the test is about did happen.
    assert seen.full > 0
    assert preemptions > 0


async def _soak(server: Server, clients: int, seconds: float) -> Seen:
    rng = random.Random(7)
    seen = Seen()
    until = time.monotonic() + seconds
    watching = asyncio.create_task(_watch(server.address, seen))
    work = [
        _client(server.address, random.Random(rng.random()), until, seen) for _ in range(clients)
    ]
    await asyncio.gather(*work)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return seen


async def _client(address: tuple[str, int], rng: random.Random, until: float, seen: Seen) -> None:
    """One request after the other; each is read to its end or left in the middle."""
    while time.monotonic() < until:
        shared = [1 + n % 200 for n in range(rng.choice([0, 0, 32, 64]))]
        own = [rng.randrange(1, 250) for _ in range(rng.randrange(1, LONGEST_PROMPT - len(shared)))]
        body = {
            "prompt": shared + own,
            "max_tokens": rng.randrange(1, LONGEST_ANSWER),
            "temperature": 0,
            "ignore_eos": True,
            "stream": rng.random() < 0.5,
        }
        asking = asyncio.create_task(_ask(address, body))
        if rng.random() < 0.5:
            # Anywhere from before the request is read to long after its end.
            await asyncio.wait(
                {asking}, timeout=rng.choice([0.0, 0.01, 0.1, 1.0, 3.0]) * rng.random()
            )
            hung_up = asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            seen.ends["hung up" if hung_up else "finished"] += 1
        else:
            await asyncio.wait_for(asking, ANSWER_WITHIN_S)
            seen.ends["finished"] += 1


async def _ask(address: tuple[str, int], body: dict[str, object]) -> None:
    answer = await _http(address, "POST", "/v1/completions", json.dumps(body))
    if body["stream"]:
        assert answer.endswith("data: [DONE]"), answer[-300:]
        assert '"finish_reason":"length"' in answer
    else:
        reply = json.loads(answer)
        assert reply["usage"]["completion_tokens"] == body["max_tokens"]


async def _watch(address: tuple[str, int], seen: Seen) -> None:
    """Health is 200 and the books balance at every look; while work waits, steps complete."""
    stuck_since = time.monotonic()
    while True:
        started = time.monotonic()
        await _http(address, "GET", "/health")
        text = await _http(address, "GET", "/metrics")
        assert time.monotonic() - started < 5.0
        now = {
            name: float(value) for name, value in re.findall(r"^penstock:(\S+) (\S+)$", text, re.M)
        }
        pages = {s: now[f'kv_pages{{state="{s}"}}'] for s in ("free", "held", "cached", "total")}
        assert pages["free"] + pages["held"] + pages["cached"] == pages["total"] == POOL_PAGES
        if now["engine_steps_total"] > seen.steps or now["num_requests_open"] == 0:
            stuck_since = time.monotonic()
        assert time.monotonic() - stuck_since < 5.0, f"no step for 5 s: {now}"
        seen.steps = now["engine_steps_total"]
        seen.samples += 1
        seen.full += pages["held"] >= POOL_PAGES - 2 and now["num_requests_waiting"] > 0
        await asyncio.sleep(0.05)


async def _http(address: tuple[str, int], method: str, path: str, body: str = "") -> str:
    """Body of the answer; fails unless it is 200. Cancelled, it hangs up."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        data = body.encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        answer = (await reader.read(-1)).decode()
    finally:
        writer.transport.abort()
    status, _, rest = answer.partition("\r\n")
    assert status == "HTTP/1.1 200 OK", answer[:500]
    headers, _, content = rest.partition("\r\n\r\n")
    if "transfer-encoding: chunked" in headers.lower():
        content = "".join(re.findall(r"[0-9a-f]+\r\n(.+?)\r\n(?=[0-9a-f]+\r\n)", content, re.S))
    return content.strip()
