"""Nothing measured beats the ceiling: over two thousand points of real servers."""

import csv
import os
from functools import cache
from pathlib import Path

import pytest
from benchmarks.measured_points import measured

from penstock.plan.limits import largest_batch
from penstock.predict.architecture import architecture
from penstock.predict.ceilings import Ceiling, alone, decode_load, mean_context, served
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import device

_SHARED = Path(__file__).parents[2].parent / "shared" / "data"
RESULTS = Path(os.environ.get("PENSTOCK_DATA", _SHARED)) / "results"
TRTLLM_NAMES = {"Llama 3.3 70B": "llama-3.3-70b", "RTX6000Pro": "rtx-pro-6000"}


def rows_of(name):
    path = RESULTS / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set PENSTOCK_DATA to the folder of measured results")
    with path.open() as file:
        return list(csv.DictReader(file))


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
    every = rows_of("serving_measured_h100_b200.csv")
    rows = [row for row in every if row["mode"] == "agg" and not waited(row)]
    shares = []
    for row in rows:
        point = measured(row)
        part = point.parts[0]
        at = ceiling(point.model, point.system, row["precision"], part.tp, part.dp)
        step = decode_load(point.concurrency, mean_context(int(row["isl"]), int(row["osl"])))
        shares.append((1000 * at.seconds(alone(step)) / float(row["tpot_ms"]), row))
    beaten = [(row["concurrency"], row["batch_size"]) for share, row in shares if share > 1]
    # Two columns of one point contradict each other: 13 sequences and 416 in flight.
    assert beaten == [("416", "13")]
    assert len(shares) > 2000
    # And the ceiling is no empty word: twenty points reach seven tenths of it.
    assert sorted(share for share, _ in shares)[-20] > 0.7


def test_no_published_offline_throughput_is_higher_than_the_hardware_allows():
    shares = []
    for row in rows_of("trtllm_perf_overview_v1.csv"):
        model, gpu = (TRTLLM_NAMES.get(row[key], row[key]) for key in ("model", "gpu"))
        placed = Deployment(
            architecture(model.lower().replace(" ", "-")),
            device(gpu),
            row["precision"].lower(),
            "fp8",
            tp=int(row["tp"]),
            pp=int(row["pp"]),
        )
        prompt, output = int(row["isl"]), int(row["osl"])
        # As many sequences as the whole memory holds: offline, a server takes all it can.
        batch = largest_batch(placed, prompt, output, 1.0, 0)
        most = batch / Ceiling(placed).seconds(served(batch, prompt, output))
        shares.append(float(row["total_output_tokens_per_s"]) / most)
    assert len(shares) > 250
    assert max(shares) < 1
    assert sorted(shares)[len(shares) // 2] > 0.25


def test_no_dense_model_on_a_small_machine_is_faster_than_its_memory():
    dense = [r for r in rows_of("llamacpp_dgx_spark_batched.csv") if "Coder-7B" in r["model"]]
    ceiling = Ceiling(Deployment(architecture("qwen2.5-coder-7b"), device("gb10"), "int8"))
    shares = []
    for row in dense:
        context = mean_context(int(row["prompt_tokens"]), int(row["gen_tokens"]))
        least = ceiling.seconds(alone(decode_load(int(row["batch"]), context)))
        shares.append(float(row["s_tg_tok_s"]) * least / int(row["batch"]))
    assert 0.6 < max(shares) < 1
