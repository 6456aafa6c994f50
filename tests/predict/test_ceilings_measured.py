"""Nothing measured beats the ceiling: two thousand points of real servers."""

import csv
import os
from functools import cache
from pathlib import Path

import pytest

from penstock.predict.architecture import architecture
from penstock.predict.ceilings import Ceiling, alone, decode_load, mean_context
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import device

_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CSV = Path(os.environ.get("PENSTOCK_DATA", _SHARED)) / "results" / "serving_measured_h100_b200.csv"


@cache
def ceiling(model, system, precision, tp, dp):
    shape = architecture(model)
    # What was called fp4 or fp8 of gpt-oss are the weights it ships in.
    weights = shape.weights if "gpt-oss" in model else precision or shape.weights
    kv = "bf16" if weights in ("bf16", "int4") else "fp8"
    return Ceiling(Deployment(shape, device(system), weights, kv, tp=tp, dp=dp))


def waited(row):
    """Whether requests waited longer than they were answered: then few decode at a time."""
    return float(row["ttft_ms"]) > int(row["osl"]) * float(row["tpot_ms"])


def test_no_measured_point_is_faster_than_the_hardware_allows():
    if not CSV.exists():
        pytest.skip(f"{CSV} is not here: set PENSTOCK_DATA to the folder of the measured points")
    with CSV.open() as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "agg" and not waited(row)]
    shares = []
    for row in rows:
        groups = int(row["attention_dp_size"] or 1)
        at = ceiling(
            row["model_path"], row["system"], row["precision"], int(row["tp_size"]), groups
        )
        in_flight = int(row["concurrency"] or int(row["batch_size"]) * groups)
        step = decode_load(in_flight, mean_context(int(row["isl"]), int(row["osl"])))
        shares.append((1000 * at.seconds(alone(step)) / float(row["tpot_ms"]), row))
    beaten = [(row["concurrency"], row["batch_size"]) for share, row in shares if share > 1]
    # Two columns of one point contradict each other: 13 sequences and 416 in flight.
    assert beaten == [("416", "13")]
    assert len(shares) > 2000
    # And the ceiling is no empty word: twenty points reach seven tenths of it.
    assert sorted(share for share, _ in shares)[-20] > 0.7
