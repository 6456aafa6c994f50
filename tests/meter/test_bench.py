"""A whole run over HTTP against a server whose true speed is known."""

import asyncio
import json
import math
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from penstock.meter.bench import Progress, bench
from penstock.meter.http import HttpTarget
from penstock.meter.options import Options
from penstock.record.record import Outcome
from penstock.record.run import Role
from penstock.record.slo import parse_slos
from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import parse_lengths
from tests.meter.scripted import Script, serving


@contextmanager
def server_process(**script):
    """The scripted server in an interpreter of its own."""
    Script(**script)  # refuse a misspelt field here, not there
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("scripted.py")), json.dumps(script)],
        stdout=subprocess.PIPE,
    )
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()


def options(**given):
    usual = {"input_len": parse_lengths("10-20"), "output_len": parse_lengths("8")}
    return Options(**(usual | given))


async def measure(url, **given):
    target = await HttpTarget.open(url)
    try:
        return await bench(target, options(**given))
    finally:
        await target.close()


def numbered(tmp_path, count):
    """A file of prompts p0, p1, ...: of the request with that id, so that stamps can be found."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "p{i}"}}\n' for i in range(count)))
    return prompts


def written_in_window(point, figures, stamps):
    """How many events and how many last events a second the server wrote in the steady window.

    By its own stamps, on the meter's clock: what a busy machine delays is late in both.
    """
    start, end = (point.start_ns + figures["window"][name] * 1e9 for name in ("start_s", "end_s"))
    finished = [r for r in point.records if r.outcome is Outcome.FINISHED]
    events = [stamps[f"p{r.request_id}"][1:] for r in finished]
    inside = sum(start <= ns < end for answer in events for ns in answer)
    ended = sum(start <= answer[-1] < end for answer in events)
    return inside / (end - start) * 1e9, ended / (end - start) * 1e9


async def test_figures_of_a_server_of_known_speed(tmp_path):
    """TTFT 60 ms, 20 ms between events, 3 tokens an event, 10 events; later when it is busy.

    So the truth is not what it was asked to do, but what it did and when.
    """
    with server_process(
        ttft_s=0.06, itl_s=0.02, events=10, tokens_per_event=3, usage="every"
    ) as url:
        target = await HttpTarget.open(url)
        asked = options(concurrency=(1, 4), duration_s=2, prompts=numbered(tmp_path, 200))
        run = await bench(target, asked)
        stamps = json.loads((await target.client.get("/stamps")).body)
        await target.close()
    for point, figures, slots in zip(run.points, run.summary["points"], (1, 4), strict=True):
        done = [r for r in point.records[point.warmup :] if r.outcome is Outcome.FINISHED]
        did = np.array([stamps[f"p{r.request_id}"] for r in done]) * 1e-9
        first, tpot = did[:, 1] - did[:, 0], (did[:, -1] - did[:, 1]) / 27
        assert figures["ttft"]["p50"] == pytest.approx(np.median(first), abs=0.005)
        assert figures["itl"]["p50"] == pytest.approx(np.median(np.diff(did[:, 1:])), abs=0.003)
        assert figures["itl"]["tokens_per_event"] == 3
        assert figures["tpot"]["p50"] == pytest.approx(np.median(tpot), rel=0.05)
        assert figures["user_speed"]["p50"] == pytest.approx(1 / np.median(tpot), rel=0.05)
        events_per_s, answers_per_s = written_in_window(point, figures, stamps)
        assert figures["output_throughput"]["value"] == pytest.approx(3 * events_per_s, rel=0.05)
        # What ends at an edge of the window may be counted on either side of it, by each slot.
        edge = 1.01 * slots / (figures["window"]["end_s"] - figures["window"]["start_s"])
        assert figures["request_throughput"]["value"] == pytest.approx(answers_per_s, abs=edge)
        assert not figures["window"]["whole_run"]
        assert figures["tokens"]["source"] == "server usage"
        words = figures["user_speed"]["p50"] / 3  # a word an event
        assert figures["words_per_second"]["p50"] == pytest.approx(words, rel=0.1)
        # It never is early, so neither is the meter: the server cannot look faster than it is.
        assert figures["ttft"]["p50"] > 0.058
        assert figures["user_speed"]["p50"] < 155
    assert len(run.summary["sentences"]) == 3
    speed = run.summary["points"][0]["user_speed"]["p50"]
    told = re.match(r"Alone, one user of scripted gets ([0-9]+)", run.summary["sentences"][0])
    assert float(told[1]) == pytest.approx(speed, rel=0.05)


async def test_the_meters_own_error_at_16_streams(tmp_path):
    """Server and meter read the same clock, so the lateness of every event is known."""
    prompts = numbered(tmp_path, 64)
    with server_process(ttft_s=0.05, itl_s=0.02, events=20) as url:
        target = await HttpTarget.open(url)
        run = await bench(target, options(concurrency=(16,), requests=64, prompts=prompts))
        stamps = json.loads((await target.client.get("/stamps")).body)
        await target.close()
    late_s = []
    for record in run.points[0].records:
        written = stamps[f"p{record.request_id}"][1:]
        assert len(record.event_ns) == len(written) == 20
        late_s += [(b - a) * 1e-9 for a, b in zip(written, record.event_ns, strict=True)]
    assert min(late_s) > -2e-5  # nothing arrives before it was written
    assert sorted(late_s)[len(late_s) // 2] < 0.001


async def test_errors_never_raise_throughput(tmp_path):
    prompts = numbered(tmp_path, 80)
    async with serving(events=8, fault="503", fault_every=2) as bad:
        run = await measure(bad.url, concurrency=(4,), requests=80, prompts=prompts)
    failing = run.summary["points"][0]
    assert failing["errors"]["by_class"] == {"http_503": 40}
    assert failing["completed"] == 40
    assert failing["tokens"]["output"] == 40 * 8
    # What was refused was not written, and four slots cannot do more than four slots' work.
    events_per_s, _ = written_in_window(run.points[0], failing, bad.stamps)
    assert failing["output_throughput"]["value"] == pytest.approx(events_per_s, rel=0.05)
    assert failing["output_throughput"]["value"] < 1.05 * 4 * 8 / (0.02 + 7 * 0.005)
    assert failing["goodput"]["share"] < 0.8
    assert failing["ttft"]["p50"] > 0.015  # of answers, not of refusals


async def test_poisson_load_is_sent_as_planned():
    async with serving() as server:
        run = await measure(server.url, arrivals=(Poisson(50.0),), requests=100)
    point = run.points[0]
    assert [r.sched_ns for r in point.records] == sorted(r.sched_ns for r in point.records)
    late = sorted((r.sent_ns - r.sched_ns) * 1e-9 for r in point.records)
    assert late[50] < 0.02
    assert point.conditions["arrival"] == "Poisson"


async def test_short_answers_are_said():
    async with serving(events=8) as server:
        run = await measure(server.url, concurrency=(1,), requests=6, output_len=parse_lengths("9"))
    assert "1 at once: 6 of 6 answers are shorter than asked" in run.summary["notes"]


async def test_slo_goodput():
    async with serving(ttft_s=0.05) as server:
        run = await measure(
            server.url, concurrency=(2,), requests=20, slos=tuple(parse_slos("ttft<10ms"))
        )
        loose = await measure(
            server.url, concurrency=(2,), requests=20, slos=tuple(parse_slos("ttft<5s"))
        )
    assert run.summary["points"][0]["goodput"]["share"] == 0
    assert run.summary["points"][0]["goodput"]["output_tokens_per_s"] == 0
    assert loose.summary["points"][0]["goodput"]["share"] == 1


async def test_an_azure_trace_is_clipped_to_the_context(tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:00:0{i}.0000000,{10 ** (i % 5)},9\n" for i in range(10))
    )
    models = [{"id": "m", "max_model_len": 200}]
    async with serving(models=models) as server:
        run = await measure(server.url, trace=trace, speed=50)
        sizes = [len(body["prompt"]) for body in server.bodies]
    assert run.points[0].conditions["arrival"] == "as recorded (Azure), 50 times as fast"
    assert run.summary["points"][0]["completed"] == 10
    assert any("context of 150 tokens: 4 of 10" in note for note in run.summary["notes"])
    assert max(sizes) <= 2000
    offsets = [(r.sched_ns - run.points[0].start_ns) * 1e-9 for r in run.points[0].records]
    assert offsets == pytest.approx([i / 50 for i in range(10)])


async def test_an_interrupted_run_is_a_run():
    async with serving(itl_s=0.05) as server:
        target = await HttpTarget.open(server.url)
        progress = Progress()
        running = asyncio.create_task(bench(target, options(concurrency=(2, 4)), progress=progress))
        while progress.drive is None or progress.drive.done < 3:
            await asyncio.sleep(0.01)
        progress.interrupt()
        run = await running
        await target.close()
    assert run.interrupted
    assert len(run.points) == 1
    outcomes = [r.outcome for r in run.points[0].records]
    assert outcomes.count(Outcome.FINISHED) >= 3
    assert outcomes.count(Outcome.UNFINISHED) in (1, 2)
    assert any("1 of 2 operating points" in note for note in run.summary["notes"])


async def test_every_condition_is_named():
    async with serving() as server:
        run = await measure(server.url, concurrency=(1,), requests=6)
    conditions = run.summary["points"][0]["conditions"]
    for name in [
        "model",
        "precision",
        "hardware",
        "target",
        "target_version",
        "arrival",
        "concurrency",
        "prompts",
        "prompt_tokens_asked",
        "output_tokens_asked",
        "prompt_tokens_mean",
        "output_tokens_mean",
        "warmup_requests",
        "repeats",
        "cache",
        "seed",
        "client",
        "endpoint",
        "sampling",
        "output_length",
    ]:
        assert conditions[name] is not None, name
    assert conditions["precision"] == "unknown"
    assert json.dumps(run.summary)


async def test_repeats_are_one_point_of_the_summary():
    async with serving() as server:
        run = await measure(server.url, concurrency=(1, 2), requests=8, repeats=2)
    assert [p.load.concurrency for p in run.points] == [1, 2] * 2
    assert [p.repeat for p in run.points] == [0, 0, 1, 1]
    assert [p["load"]["concurrency"] for p in run.summary["points"]] == [1, 2]
    assert run.summary["points"][0]["conditions"]["repeats"] == 2
    # No prompt is asked twice, or a cache would answer the repeats.
    prompts = [body["prompt"] for body in server.bodies if not body["prompt"].startswith("def")]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.slow
async def test_a_search_for_capacity_keeps_its_trials_and_measures_at_the_capacity():
    """One at a time for 10 ms: 99 % end within 0.2 s up to 100 - ln(100)/0.2 = 77 a second.

    Such short trials only show that it works; whether it is right, the next test says.
    """
    async with serving(service_s=0.01, ttft_s=0.0, itl_s=0.0, events=1) as server:
        run = await measure(
            server.url,
            arrivals=(Poisson(20.0),),
            duration_s=1,
            search=("capacity",),
            slos=tuple(parse_slos("e2e<0.2s")),
        )
    found = run.summary["capacity"]
    assert {trial["role"] for trial in found["tried"]} == {"bracket", "trial"}
    assert found["unit"] == "requests/s"
    assert found["trials"] == sum(trial["role"] == "trial" for trial in found["tried"]) >= 10
    if found["load"] is None:
        assert found["reason"]
    else:
        assert [p["role"] for p in run.summary["points"]] == ["measured"]
        assert run.summary["points"][0]["load"]["rate"] == pytest.approx(found["load"])


@pytest.mark.slow
async def test_the_capacity_of_a_real_server_lies_in_its_interval_in_18_of_20():
    """Twenty servers at once; each serves one at a time, 20 a second on average.

    So 90 % end within 0.3 s up to 20 - ln(10)/0.3 = 12.3 a second. Takes 20 minutes.
    """
    truth = 20 - math.log(10) / 0.3

    async def holds(seed):
        with server_process(service_s=0.05, ttft_s=0.0, itl_s=0.0, events=1, seed=seed) as url:
            run = await measure(
                url,
                arrivals=(Poisson(6.0),),
                duration_s=40,
                search=("capacity",),
                slos=tuple(parse_slos("e2e.p90<0.3s")),
                seed=seed,
            )
        interval = run.summary["capacity"]["ci95"]
        return interval is not None and interval[0] <= truth <= interval[1]

    assert sum(await asyncio.gather(*(holds(seed) for seed in range(20)))) >= 18


async def test_a_limit_that_no_load_meets_is_said():
    async with serving(ttft_s=0.05) as server:
        run = await measure(
            server.url,
            duration_s=0.5,
            search=("capacity",),
            slos=tuple(parse_slos("e2e<1ms")),
        )
    assert run.summary["capacity"]["load"] is None
    assert "even with one request" in run.summary["capacity"]["reason"]
    assert run.summary["points"]  # what was tried is shown


async def test_a_sweep_measures_upwards_and_ends_past_saturation():
    async with serving(ttft_s=0.02, itl_s=0.0, events=1, slots=4) as server:
        run = await measure(server.url, duration_s=1, search=("sweep",))
    loads = [p.load.concurrency for p in run.points]
    assert loads == sorted(loads)
    assert loads[:2] == [1, 2]
    assert run.summary["swept"]["stopped"]
    best = run.summary["swept"]["best"]
    assert best <= 16
    assert all((p.role == Role.OVERLOAD) == (p.load.concurrency > best) for p in run.points)


async def test_tokens_bound_a_whole_search():
    async with serving() as server:
        run = await measure(server.url, duration_s=0.5, search=("sweep",), tokens=2000)
    assert "out of tokens" in run.summary["swept"]["stopped"]
    assert sum(p["tokens"]["output"] for p in run.summary["points"]) < 3000
