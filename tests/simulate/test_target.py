"""`bench` and `simulate` on a fleet: the same reports as of a real server, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.meter.bench import Progress, bench
from penstock.meter.options import Options
from penstock.record.record import Outcome
from penstock.record.run import load
from penstock.simulate.fleet import read_fleet
from penstock.simulate.target import SimTarget
from penstock.workload.arrivals import Poisson
from penstock.workload.presets import parse_workload
from penstock.workload.sketch import Sketches, pieces_of

FLEET = """
[[replicas]]
count = 2
kv_tokens = 50000
costs = { step = 0.008, compute = 2e-5, request = 0.005 }
policy = { preset = "vllm", max_running = 32 }
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text(FLEET)
    return str(path)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    "asked",
    [
        {"concurrency": (4,), "requests": 40},
        {"arrivals": (Poisson(5.0),), "duration_s": 20.0},
        {"concurrency": (2,), "requests": 5, "workload": parse_workload("sessions:2-3,1")},
        {"concurrency": (2,), "requests": 4, "workload": parse_workload("agent:1,2,0.5")},
        {"arrivals": (Poisson(5.0),), "requests": 20, "workload": parse_workload("rag:3,100")},
        {"concurrency": (2,), "requests": 6, "n": 3},
    ],
)
async def test_every_workload_gives_a_run(file: str, asked: dict) -> None:
    measured = await bench(SimTarget(read_fleet(file)), Options(**asked))
    (point,) = measured.points
    assert point.records
    assert {record.outcome for record in point.records} == {Outcome.FINISHED}
    for record in point.records:
        assert point.start_ns <= record.sched_ns <= record.first_ns <= record.end_ns
        assert record.end_ns <= point.end_ns
        assert sum(record.event_tokens) == record.output_tokens == record.output_tokens_asked
    figures = measured.summary["points"][0]
    assert figures["ttft"]["p50"] > 0.005
    assert figures["output_throughput"]["value"] > 0
    assert {series.name for series in measured.series} >= {"running", "kv_usage", "prefix_hits"}


async def test_a_load_that_lasts_is_stopped_and_cut_in_virtual_time(file: str) -> None:
    options = Options(concurrency=(4,), duration_s=10.0)
    measured = await bench(SimTarget(read_fleet(file)), options)
    (point,) = measured.points
    assert point.stop_ns - point.start_ns == 10_000_000_000
    slow = Options(arrivals=(Poisson(50.0),), duration_s=5.0, tokens=20_000)
    stopped = await bench(SimTarget(read_fleet(file)), slow)
    assert any("limit of 20,000 tokens" in note for note in stopped.points[0].notes)


async def test_operating_points_follow_one_another_on_the_clock(file: str) -> None:
    options = Options(concurrency=(1, 8), requests=20, repeats=2)
    measured = await bench(SimTarget(read_fleet(file)), options)
    for before, after in zip(measured.points, measured.points[1:], strict=False):
        assert before.end_ns < after.start_ns
    for series in measured.series:
        assert series.at_ns == sorted(series.at_ns)


async def test_an_interruption_keeps_what_there_is(file: str) -> None:
    progress = Progress()
    progress.interrupt()
    measured = await bench(
        SimTarget(read_fleet(file)), Options(concurrency=(1,)), progress=progress
    )
    assert measured.interrupted


def test_bench_writes_the_same_bytes_twice(file: str, tmp_path: Path) -> None:
    asked = ("bench", f"sim:{file}", "--rate", "4", "--requests", "60", "--json", "--no-html")
    outputs = [json.loads(run(*asked, "--out", str(tmp_path / name))) for name in "ab"]
    assert outputs[0]["points"] == outputs[1]["points"]
    for parquet in ("requests.parquet", "metrics.parquet"):
        assert (tmp_path / "a" / parquet).read_bytes() == (tmp_path / "b" / parquet).read_bytes()
    kept = load(tmp_path / "a")
    assert kept.target["kind"] == "sim"
    assert kept.summary["points"][0]["words_per_second"]["p50"] is None


def test_simulate_writes_the_same_bytes_twice(file: str, tmp_path: Path) -> None:
    asked = ("simulate", file, "--arrival", "gamma:5,0.5", "--requests", "200", "--json")
    asked += ("--slo", "ttft<0.1s,tpot<20ms", "--workload", "prefix:3,200")
    outputs = [json.loads(run(*asked, "--out", str(tmp_path / name))) for name in "ab"]
    assert outputs[0] == outputs[1]
    assert outputs[0]["requests"]["finished"] == 200
    assert outputs[0]["slo"].keys() == {"ttft<0.1s", "tpot<0.02s"}
    assert outputs[0]["cached_share"] > 0.4
    names = ("simulation.json", "requests.parquet", "series.parquet", "simulation.png")
    for name in names[:3]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / names[3]).stat().st_size > 10_000
    assert pq.read_table(tmp_path / "a" / "requests.parquet").num_rows == 200


def test_a_person_reads_it(file: str, tmp_path: Path) -> None:
    said = run("simulate", file, "--rate", "3", "--duration", "20", "--out", str(tmp_path / "x"))
    assert "finished" in said
    assert "time to first token" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("simulate", "FILE"), "say what is asked"),
        (("simulate", "FILE", "--rate", "1,2"), "one load"),
        (("simulate", "FILE", "--rate", "-1"), "above zero"),
        (("simulate", "FILE", "--trace", "nowhere.jsonl"), "does not exist"),
        (("bench", "sim:FILE", "--tasks", "doctests"), "no use with a simulated fleet"),
        (("bench", "sim:FILE", "--workers", "2"), "no use with a simulated fleet"),
    ],
)
def test_what_cannot_be_used_is_refused(file: str, arguments: tuple[str, ...], said: str) -> None:
    asked = [argument.replace("FILE", file) for argument in arguments]
    output = " ".join(run(*asked, code=2).replace("│", " ").split())
    assert said in output


def test_an_unknown_fleet_names_the_examples() -> None:
    for command in (("simulate", "none.toml", "--rate", "1"), ("bench", "sim:none.toml")):
        assert "elastic.toml" in run(*command, code=1)


def test_sketches_are_read_as_they_were_made() -> None:
    pieces = [("prefix 3", 6000), ("own 17", 12)]
    assert pieces_of(Sketches().join([*pieces, ("nothing", 0)])) == pieces
    said = [
        {"role": "user", "content": Sketches().prompt(4, 100)},
        {"role": "assistant", "content": "answer 4 0\t30\n"},
        {"role": "user", "content": "Is that so?\nown 5\t7\n"},
    ]
    assert pieces_of(said) == [("own 4", 100), ("answer 4 0", 30), ("Is that so?", 3), ("own 5", 7)]
