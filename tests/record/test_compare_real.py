"""Real servers, real sockets: equal ones are called equal, one slower by 5 % is found out."""

import pytest

from penstock.record.compare import ALPHA, compare
from tests.meter.test_bench import measure, server_process

ANSWER = {"ttft_s": 0.02, "events": 20}


async def measured(url):
    return await measure(url, concurrency=(8,), duration_s=12, warmup=8)  # shorter is not VALID


def found(made):
    findings = [effect.finding for pair in made.pairs for effect in pair.effects]
    return [finding for finding in findings if finding in ("better", "worse")]


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_equal_servers():
    false = 0
    with server_process(itl_s=0.010, **ANSWER) as a, server_process(itl_s=0.010, **ANSWER) as b:
        for _ in range(40):
            false += bool(found(compare(await measured(a), await measured(b))))
    assert false <= ALPHA * 40


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_server_slower_by_5_percent():
    hits = 0
    slow = ANSWER | {"ttft_s": 0.021}
    with server_process(itl_s=0.010, **ANSWER) as a, server_process(itl_s=0.0105, **slow) as b:
        for _ in range(20):
            made = compare(await measured(a), await measured(b))
            by_name = {e.name: e.finding for e in made.pairs[0].effects}
            hits += by_name["output_throughput"] == "worse"
    assert hits >= 18
