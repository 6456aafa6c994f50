"""A simulated server against real logs: the promise of docs/step_time.md."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks.simulate_validate import Outcome, coverage, errors, validate

from penstock.predict.serverlog import read_log

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
LOGS = DATA / "results" / "vllm_logs"
EVERYONE = np.ones(100, dtype=bool)


def made_up(rng, scale=1.0):
    return Outcome(*(scale * rng.gamma(9, 1, 100) for _ in Outcome._fields))


def test_errors_are_relative_and_signed():
    true = made_up(np.random.default_rng(1))
    found = errors(Outcome(*(1.1 * each for each in true)), true, EVERYONE)
    assert found["e2e"] == {"mean": pytest.approx(0.1), "p90": pytest.approx(0.1)}


def test_coverage_counts_windows_within_the_draws():
    true = made_up(np.random.default_rng(1))
    around = [Outcome(*(s * each for each in true)) for s in np.linspace(0.9, 1.1, 21)]
    beyond = [Outcome(*(s * each for each in true)) for s in np.linspace(1.1, 1.2, 21)]
    assert coverage(around, true, EVERYONE)["all"] == 1.0
    assert coverage(beyond, true, EVERYONE)["all"] == 0.0


@pytest.mark.slow
@pytest.mark.skipif(not LOGS.exists(), reason=f"{LOGS} is absent")
@pytest.mark.parametrize("name", ["RTX4090_Llama-3.1-8B", "RTXPRO6000_Llama-3.1-8B"])
def test_the_promise_of_the_docs_holds_on_the_real_logs(name):
    found = validate(read_log(LOGS / name))
    for metric in ("e2e", "tpot"):
        assert abs(found["zero"][metric]["mean"]) <= 0.15
        assert abs(found["calibrated"][metric]["mean"]) <= 0.05
    assert abs(found["calibrated"]["ttft"]["mean"]) <= 0.10
    assert found["calibrated"]["interval_coverage"]["all"] >= 0.8


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("meta.json", "No such file"),
        ("requests.jsonl", "missing required field `output_toks`"),
        ("device", "does not say on which hardware"),
    ],
)
def test_a_log_that_cannot_be_read_says_why(tmp_path, broken, said):
    times = dict.fromkeys(
        ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"), 1.0
    )
    request = {"input_toks": 1, "output_toks": 2, **times}
    meta = {"model": "llama-3.1-8b", "engine_kwargs": {}}
    if broken == "requests.jsonl":
        del request["output_toks"]
    if broken != "meta.json":
        (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "requests.jsonl").write_text(json.dumps(request))
    (tmp_path / "timeseries.csv").write_text("t,gen_throughput,running\n1.0,2,1\n")
    with pytest.raises(ValueError, match=said):
        read_log(tmp_path, None if broken == "device" else "h100")
