"""The server's side of the engine process, where a race decides."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from penstock.engine.options import EngineOptions
from penstock.engine.request import Delta, GenerateRequest, SamplingParams
from penstock.schedule.errors import RequestRefused
from penstock.serve.client import EngineClient, EngineDied, Generation
from tests.serve.fake_engine import DIE

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]


def request(name: str, tokens: int = 5, prompt: list[int] | None = None) -> GenerateRequest:
    params = SamplingParams(max_tokens=tokens)
    return GenerateRequest(id=name, prompt=prompt or [1, 2, 3], params=params)


@pytest.fixture
async def engine():
    async with await EngineClient.start("fake", EngineOptions(), FAKE) as client:
        yield client


async def at_rest(engine: EngineClient) -> None:
    async with asyncio.timeout(5):
        while engine.open or engine.stats.running or engine.stats.waiting:
            await asyncio.sleep(0.005)
    assert engine.stats.pages_held == 0


async def test_deltas_in_order_and_one_end(engine: EngineClient) -> None:
    async with await engine.generate(request("a")) as generation:
        deltas = [delta async for delta in generation]
    assert [token for delta in deltas for token in delta.token_ids] == [1, 2, 3, 1, 2]
    assert [delta.finish_reason for delta in deltas][-1] == "length"
    assert engine.open == 0


async def test_leaving_early_aborts(engine: EngineClient) -> None:
    async with await engine.generate(request("a", 2000)) as generation:
        await anext(generation)
    await at_rest(engine)
    assert engine.stats.cancelled == 1


async def test_cancelled_while_waiting_to_be_admitted(engine: EngineClient) -> None:
    tasks = [asyncio.create_task(engine.generate(request(str(n), 2000))) for n in range(50)]
    for n, task in enumerate(tasks):
        if n % 5 == 0:
            await asyncio.sleep(0.001)
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Generation):
            result.close()
    await at_rest(engine)
    assert engine.dead is None


async def test_admitted_just_after_its_waiter_was_cancelled(engine: EngineClient) -> None:
    """The reader may handle the report before the cancelled task has run."""
    generation = Generation(engine, request("a"))
    waiter = asyncio.create_task(generation.admitted())
    await asyncio.sleep(0)
    waiter.cancel()
    generation.admit()
    generation.fail(EngineDied("late"))
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_a_mailbox_merges_what_nobody_has_taken(engine: EngineClient) -> None:
    generation = Generation(engine, request("a"))
    for token in range(4):
        finish = "length" if token == 3 else None
        generation.put(Delta(request_id="a", token_ids=[token], finish_reason=finish))
    assert [delta.token_ids async for delta in generation] == [[0, 1, 2, 3]]


async def test_refused(engine: EngineClient) -> None:
    with pytest.raises(RequestRefused, match="this model holds 2048"):
        await engine.generate(request("a", prompt=[1] * 5000))
    assert engine.open == 0


async def test_everybody_hears_of_the_death(engine: EngineClient) -> None:
    generations = [await engine.generate(request(str(n), 2000)) for n in range(5)]
    with pytest.raises(EngineDied, match="status 7"):
        async with await engine.generate(request("x", prompt=[DIE])) as poison:
            await anext(poison)
    for generation in generations:
        with pytest.raises(EngineDied, match="status 7"):
            async with asyncio.timeout(5):
                [delta async for delta in generation]
    with pytest.raises(EngineDied):
        await engine.generate(request("later"))
    assert engine.open == 0
