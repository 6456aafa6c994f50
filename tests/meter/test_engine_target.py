"""The engine in this process, measured like any other target."""

import pytest

from penstock.meter.bench import bench
from penstock.meter.options import Options
from penstock.record.record import Outcome, Record
from penstock.workload.lengths import parse_lengths
from penstock.workload.plan import Ask

pytest.importorskip("torch", reason="the engine needs PyTorch")


@pytest.fixture
async def target():
    from penstock.engine.options import EngineOptions
    from penstock.serve.inprocess import EngineTarget

    opened = EngineTarget("embedded", EngineOptions(threads=1, kv_tokens=4096))
    yield opened
    await opened.close()


async def test_answers_are_as_long_as_asked_and_counted_by_id(target):
    run = await bench(
        target,
        Options(
            concurrency=(2,),
            requests=6,
            input_len=parse_lengths("12-20"),
            output_len=parse_lengths("5"),
        ),
    )
    for record in run.points[0].records:
        assert record.outcome is Outcome.FINISHED
        assert (record.output_tokens, record.counted_by) == (5, "token ids")
        assert sum(record.event_tokens) == 5
        assert record.sched_ns <= record.sent_ns < record.first_ns <= record.last_ns
    limit = run.summary["points"][0]["limit"]
    assert limit["output_throughput"] > 0
    assert 0 < limit["fraction"] < 1


async def test_what_the_engine_refuses_is_a_failure_with_its_reason(target):
    record = Record(request_id="1", sched_ns=0)
    ask = Ask(id="1", content="x", prompt_tokens=1, output_tokens=1_000_000)
    await target.send(ask, record)
    assert record.outcome is Outcome.FAILED
    assert record.error.startswith("RequestRefused: ")
    assert record.end_ns is not None
