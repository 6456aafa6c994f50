"""The version of a server is in the conditions, in whatever way it tells it."""

from time import monotonic

import pytest

from penstock.meter import version
from penstock.meter.http import HttpTarget
from tests.meter.scripted import serving

# Keys as the servers' own endpoints have them, beside others that say nothing here.
TOLD = {
    "vLLM": ({"/version": {"version": "0.11.0"}}, "0.11.0"),
    "llama.cpp": (
        {"/props": {"build_info": "b6000-abcdef0", "total_slots": 4}},
        "b6000-abcdef0",
    ),
    "TGI": ({"/info": {"model_id": "m", "version": "3.3.4", "sha": "f1"}}, "3.3.4"),
    "SGLang": ({"/server_info": {"tp_size": 1, "version": "0.5.3"}}, "0.5.3"),
    "older SGLang": ({"/get_server_info": {"version": "0.4.6"}}, "0.4.6"),
    "Ollama": ({"/api/version": {"version": "0.12.3"}}, "0.12.3"),
    "nobody": ({}, "unknown"),
    "a page for every path": ({"/version": "<html>", "/props": [1], "/info": {}}, "unknown"),
    "a number": ({"/version": {"version": 3}}, "unknown"),
    "a book": ({"/version": {"version": "1" * 100_000}}, "unknown"),
    "wrong, then right": ({"/version": {"version": ""}, "/info": {"version": "2"}}, "2"),
}


async def target_version(**script):
    async with serving(**script) as server:
        target = await HttpTarget.open(server.url)
        await target.close()
    return target.info.conditions["target_version"]


@pytest.mark.parametrize(("tells", "says"), TOLD.values(), ids=TOLD)
async def test_the_version_is_what_the_server_tells(tells, says):
    assert await target_version(tells=tells) == says


@pytest.mark.parametrize(
    ("header", "says"),
    [("engine/1.2", "engine/1.2 (by its Server header)"), ("uvicorn", "unknown")],
)
async def test_a_server_header_counts_if_it_has_a_version(header, says):
    assert await target_version(server_header=header) == says


async def test_our_own_server_needs_no_question():
    models = [{"id": "m", "owned_by": "penstock", "penstock": {"version": "7"}}]
    async with serving(models=models, tells={"/version": {"version": "8"}}) as server:
        target = await HttpTarget.open(server.url)
        await target.close()
    assert target.info.conditions["target_version"] == "7"
    assert not any("/version" in head for head in server.heads)


async def test_a_server_that_does_not_answer_costs_a_bounded_time(monkeypatch):
    monkeypatch.setattr(version, "WAIT_S", 0.2)
    began = monotonic()
    told = await target_version(tells={"/version": None}, server_header="engine/1.2")
    assert told == "unknown"
    assert 0.2 <= monotonic() - began < 5
