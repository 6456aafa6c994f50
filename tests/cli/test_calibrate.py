"""`penstock calibrate` as a user meets it: runs, logs, and what cannot be fitted."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.predict.stepfile import load_draws, load_steptime
from penstock.predict.steptime import Costs, MeasuredStepTime, StepLoad
from penstock.record.run import save
from penstock.simulate.fleet import Fleet, Group, read_fleet
from penstock.simulate.run import plan_of, simulate
from penstock.workload.traces import Trace
from tests.record.simulated import S, closed_point, run_of


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """A fit of 12 replicates instead of 60: quick, and as good for what is asked here."""
    monkeypatch.setattr("penstock.predict.fit.DRAWS", 12)


COSTS = Costs(read=8e-3, compute=40e-6, kv=30e-9, sequence=100e-6, step=1e-3, request=0.02)
LOAD = StepLoad(0, 0, 8, 8_000, 8)


def simulated(events):
    rng = np.random.default_rng(5)
    trace = Trace(
        format="made up",
        at_s=np.cumsum(rng.exponential(0.12, 250)),
        prompt_tokens=rng.integers(50, 1500, 250),
        output_tokens=rng.integers(20, 300, 250),
    )
    group = Group(costs=COSTS, kv_tokens=400_000, policy={"max_step_tokens": 2048})
    return simulate(Fleet(replicas=(group,)), plan_of(trace), events=events)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run = simulated(events=True).run()
    run.summary = {"points": []}
    save(run, root / "seen")
    one_token = run_of(closed_point(1, seconds=5))
    for record in one_token.points[0].records:
        record.event_ns, record.event_tokens = record.event_ns[:1], [1]
    save(one_token, root / "curt")
    return root


def calibrate(root, *arguments):
    result = CliRunner().invoke(app, ["calibrate", "--runs", str(root), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_run_gives_a_file_that_fleets_can_use(root, tmp_path):
    out = tmp_path / "model.toml"
    result = calibrate(root, "seen", "--out", out)
    assert result.exit_code == 0, result.output
    assert "each step" in result.output
    assert "90 % interval" in result.output
    true = MeasuredStepTime(COSTS)
    assert load_steptime(out).seconds(LOAD) == pytest.approx(true.seconds(LOAD), rel=0.1)
    draws = [draw.seconds(LOAD) for draw in load_draws(out)]
    assert min(draws) < true.seconds(LOAD) < max(draws)
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[replicas]]\nsteptime = "model.toml"\nkv_tokens = 100000\n')
    trace = Trace(
        format="one",
        at_s=np.zeros(1),
        prompt_tokens=np.array([100]),
        output_tokens=np.array([50]),
    )
    done = simulate(read_fleet(fleet), plan_of(trace))
    alone = true.seconds(StepLoad(0, 0, 1, 125, 1))
    assert done.tpot_s[0] == pytest.approx(alone, rel=0.15)


def test_json_and_the_picture(root, tmp_path):
    png = tmp_path / "fit.png"
    result = calibrate(root, "seen", "--json", "--png", png)
    found = json.loads(result.stdout)
    assert found["held_out_error"] < 0.1
    step = next(row for row in found["parameters"] if row["name"] == "request")
    assert step["interval"][0] <= step["value"] * 1.2
    assert "draws" not in found["file"]
    assert png.read_bytes().startswith(b"\x89PNG")


def test_physics_of_a_named_model(root):
    result = calibrate(root, "seen", "--model", "llama-3.1-8b", "--on", "h100", "--json")
    found = json.loads(result.stdout)["file"]
    assert found["deployment"]["weights"] == "bf16"
    efficiencies = found["estimate"]["efficiencies"]
    assert 0 < efficiencies["bandwidth"] <= 1
    assert 0 < efficiencies["compute"]["bf16"] <= 1


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A server's log in the format of vLLM's, of a simulated server."""
    folder = tmp_path_factory.mktemp("logs") / "H100_Llama"
    folder.mkdir()
    records = simulated(events=True).records()
    lines = [
        {
            "request_id": r.request_id,
            "input_toks": r.prompt_tokens,
            "output_toks": r.output_tokens,
            "arrival_time": 1e9 + r.sched_ns / S,
            "queued_ts": 50 + r.sched_ns / S,
            "scheduled_ts": 50 + r.sched_ns / S + 0.02,
            "first_token_ts": 50 + r.first_ns / S,
            "last_token_ts": 50 + r.last_ns / S,
        }
        for r in records
    ]
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = {"max_num_seqs": 256, "max_num_batched_tokens": 2048, "dtype": "bfloat16"}
    meta = {"model": "meta-llama/Llama-3.1-8B", "engine_kwargs": settings}
    meta["kv_cache"] = {"num_kv_tokens": 400_000, "block_size": 16}
    (folder / "meta.json").write_text(json.dumps(meta))
    end = max(r.last_ns for r in records)
    with (folder / "timeseries.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t", "prompt_throughput", "gen_throughput", "running", "waiting"])
        for second in range(1, int(end / S) + 2):
            here = [sum((second - 1) * S < t <= second * S for t in r.event_ns) for r in records]
            running = sum(r.first_ns <= second * S < r.last_ns for r in records)
            writer.writerow([second, 0, sum(here), running, 0])
    return folder


def test_a_servers_log(log, tmp_path):
    out = tmp_path / "log.toml"
    result = calibrate(tmp_path, log, "--out", out, "--until", "20")
    assert result.exit_code == 0, result.output
    assert "meta-llama/Llama-3.1-8B in bf16 on h100" in " ".join(result.output.split())
    assert "pages = 25000" in out.read_text()
    assert load_steptime(out).seconds(LOAD) == pytest.approx(
        MeasuredStepTime(COSTS).seconds(LOAD), rel=0.2
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing"),
        (["curt"], "none of them has two tokens with times"),
        (["seen", "--model", "llama-3.1-8b"], "go together"),
        (["seen", "--model", "llama-3.1-8b", "--on", "h1000"], "h1000"),
        (["seen", "--model", "llama-9", "--on", "h100"], "llama-9"),
        (["seen", "--until", "3"], "--until is of a server's log"),
        (["seen", "--model", "llama-3.1-70b", "--on", "h100", "--tp", "3"], "tp=3"),
        (["seen", "--step-tokens", "0"], "step-tokens"),
    ],
)
def test_what_cannot_be_is_said(root, arguments, said):
    result = calibrate(root, *arguments)
    assert result.exit_code != 0
    assert said in " ".join((result.output + (result.stderr or "")).split())
