"""Tasks asked over HTTP of a server whose answers are known, and of the embedded model."""

import asyncio
import contextlib
import importlib.util
import json

import pytest

from penstock.meter.bench import Options, Progress, bench
from penstock.meter.http import HttpTarget
from penstock.record.run import load, save
from tests.meter.raw import sse

needs_engine = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the engine needs PyTorch"
)


@contextlib.asynccontextmanager
async def oracle(answer):
    """A server that says `answer(body)`: a text and a finish reason, or a status; and its asks."""
    bodies = []

    async def connection(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (int(x[15:]) for x in head.split("\r\n") if x.lower().startswith("content-l")),
                    0,
                )
                body = await reader.readexactly(length)
                writer.write(reply(head, body))
        writer.close()

    def reply(head, body):
        if head.startswith("GET"):
            models = {"data": [{"id": "oracle", "owned_by": "vllm"}]}
            return framed(200, "application/json", json.dumps(models).encode())
        asked = json.loads(body)
        if asked.get("prompt") == "def add(a, b):":  # the meter tries the server out
            return said("x", "stop")
        bodies.append(asked)
        answered = answer(asked)
        return (
            framed(answered, "text/plain", b"no") if isinstance(answered, int) else said(*answered)
        )

    def said(text, finish):
        events = [{"choices": [{"index": 0, "text": text, "finish_reason": finish}]}]
        counted = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
        return framed(200, "text/event-stream", sse(*events, counted))

    def framed(status, kind, body):
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", bodies


async def ask(url, **options):
    target = await HttpTarget.open(url)
    try:
        return await bench(target, Options(concurrency=(2,), **options))
    finally:
        await target.close()


@pytest.fixture
def sums(tmp_path):
    path = tmp_path / "sums.jsonl"
    lines = [
        {
            "prompt": f"{i} + {i} =",
            "checker": {"type": "number", "answer": 2 * i},
            "stop": ["\n"],
            "max_tokens": 9,
        }
        for i in range(6)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def by_sums(asked):
    """0 right, 1 wrong, 2 cut before its end, 3 refused, 4 right but never ending, 5 an error."""
    number = int(asked["prompt"].split()[0])
    return [
        (" 0", "stop"),
        (" 3", "stop"),
        (" 4", "length"),
        ("I cannot.", "content_filter"),
        (" 8\n9 + 9 = 18", "length"),
        500,
    ][number]


async def test_what_is_sent_and_how_every_end_is_graded(sums):
    async with oracle(by_sums) as (url, bodies):
        run = await ask(url, tasks=sums, temperature=0.5)
    assert len(bodies) == 6
    for body in bodies:
        assert (body["temperature"], body["stop"], body["max_tokens"]) == (0.5, ["\n"], 9)
        assert "ignore_eos" not in body
        assert "min_tokens" not in body
    assert len({body["seed"] for body in bodies}) == 6
    (point,) = run.points
    graded = {
        int(r.task) - 1: (r.correct, (r.wrong_why or "").partition(":")[0]) for r in point.records
    }
    assert graded == {
        0: (True, ""),
        1: (False, "wrong"),
        2: (False, "cut"),
        3: (False, "refused"),
        4: (True, ""),
        5: (False, "error"),
    }
    (summary,) = run.summary["points"]
    found = summary["quality"]
    assert (found["tasks"], found["judged"], found["correct"]) == (6, 6, 2)
    assert found["accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["samples_wrong"] == {"wrong": 1, "cut": 1, "refused": 1, "error": 1}
    assert summary["errors"]["by_class"] == {"http_500": 1}
    assert summary["conditions"]["sampling"] == "temperature 0.5"


async def test_the_majority_of_samples_counts_and_every_number_of_samples_is_a_point(
    sums, tmp_path
):
    """Each task's first sample is wrong, the others right; the samples are known by their seeds."""
    seen = {}

    def mostly(asked):
        order = seen.setdefault(asked["prompt"], [])
        order.append(asked["seed"])
        right = 2 * int(asked["prompt"].split()[0])
        # The point of one sample comes first, so its seed is the first sample's.
        return (f" {right + (asked['seed'] == order[0])}", "stop")

    async with oracle(mostly) as (url, bodies):
        run = await ask(url, tasks=sums, samples=(1, 3), limit=4)
    one, three = (point["quality"] for point in run.summary["points"])
    assert [len(bodies), one["samples"], three["samples"]] == [4 * 4, 1, 3]
    assert (one["accuracy"]["value"], three["accuracy"]["value"]) == (0.0, 1.0)
    assert three["sample_accuracy"]["value"] == pytest.approx(2 / 3)
    assert three["correct_per_s"]["whole_run"] > 0
    assert {body["temperature"] for body in bodies} == {0.8}
    save(run, tmp_path / "run")
    again = load(tmp_path / "run")
    assert [p.records for p in again.points] == [p.records for p in run.points]


async def test_programs_are_graded_in_the_sandbox_after_the_load(tmp_path):
    from penstock.meter import sandbox

    try:
        sandbox.require()
    except sandbox.SandboxRefused as refused:
        pytest.skip(str(refused))
    path = tmp_path / "code.jsonl"
    task = {
        "prompt": "def one():\n",
        "checker": {"type": "tests", "before": "def one():\n", "after": "assert one() == 1"},
    }
    path.write_text("".join(json.dumps(task | {"id": name}) + "\n" for name in ("a", "b")))
    progress, texts = Progress(), iter(["    return 1", "    import os; os.fork()"])
    async with oracle(lambda asked: (next(texts), "stop")) as (url, _):
        target = await HttpTarget.open(url)
        run = await bench(target, Options(concurrency=(1,), tasks=str(path)), progress=progress)
        await target.close()
    assert [r.correct for r in run.points[0].records] == [True, False]
    assert run.points[0].records[1].wrong_why.startswith("wrong: PermissionError")
    assert (progress.graded, progress.to_grade) == (2, 2)
    assert any("sandbox that stops network, processes, files" in n for n in run.summary["notes"])


async def test_programs_are_refused_before_the_load_where_nothing_holds_them(tmp_path, monkeypatch):
    from penstock.meter import sandbox

    monkeypatch.setattr(sandbox, "protections", lambda: sandbox.try_out(["rlimits"]))
    path = tmp_path / "code.jsonl"
    path.write_text('{"prompt": "x", "checker": {"type": "tests", "after": ""}}')
    async with oracle(lambda asked: ("x = 1", "stop")) as (url, bodies):
        with pytest.raises(ValueError, match="--unsafe-sandbox"):
            await ask(url, tasks=str(path))
        assert bodies == []
        run = await ask(url, tasks=str(path), unsafe_sandbox=True)
    assert run.points[0].records[0].correct
    assert any("leaves open network" in note for note in run.summary["notes"])


@needs_engine
async def test_the_embedded_model_sits_the_doctests(tmp_path):
    from penstock.engine.options import EngineOptions
    from penstock.serve.inprocess import EngineTarget
    from penstock.workload import doctests

    target = EngineTarget("embedded", EngineOptions(threads=1, kv_tokens=8192))
    try:
        run = await bench(
            target,
            Options(concurrency=(8,), tasks="doctests", limit=16, samples=(1, 3), temperature=0.5),
        )
    finally:
        await target.close()
    for point, samples in zip(run.summary["points"], (1, 3), strict=True):
        found = point["quality"]
        assert (found["samples"], found["judged"], point["completed"]) == (
            samples,
            16,
            16 * samples,
        )
        # It answers about half of them; all or none would mean that nothing was graded.
        assert 0 < found["samples_right"] < 16 * samples
        assert found["accuracy"]["ci95"][0] < found["accuracy"]["value"]
    for record in run.points[1].records:
        grade, _, expression = record.task.partition(": ")
        own = doctests.Task(int(grade), expression, repr(eval(expression)))
        assert record.correct == (own.is_right(record.text) and record.finish_reason == "stop")
        assert "\n" not in record.text
