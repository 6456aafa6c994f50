"""The ceilings, against arithmetic done by hand."""

import pytest

from penstock.engine.request import ModelFacts
from penstock.predict import Hardware, limit_for
from penstock.predict.roofline import (
    Shape,
    decode_flops,
    lower_bound,
    prefill_flops,
    step_bound,
    step_bytes,
)

# A model of round numbers: 10 MB of weights, 10 MFLOP a token of which 2 in
# the head, 1 kB of K and V and 4 kFLOP of attention per token of context.
SHAPE = Shape(
    weight_bytes=10_000_000,
    flops_per_token=10_000_000,
    head_flops=2_000_000,
    attention_flops=4_000,
    kv_bytes_per_token=1_000,
)
FACTS = {
    "device": "cpu",
    "dtype": "fp32",
    "compute": "fp32",
    "weight_bytes": 10_000_000,
    "flops_per_token": 10_000_000,
    "head_flops": 2_000_000,
    "attention_flops": 4_000,
    "kv_bytes_per_token": 1_000,
    "pages": 100,
    "page_size": 16,
}
HARDWARE = Hardware(
    device="cpu",
    cores=2,
    working_set_bytes=10_000_000,
    read_bytes_per_s=50e9,
    peak_flops={"fp32": 100e9},
)
CLOSED_16 = {"kind": "closed", "concurrency": 16, "rate": None}


def test_the_facts_used_here_are_those_an_engine_gives():
    assert set(FACTS) <= set(ModelFacts.__struct_fields__)


def test_weights_are_read_once_and_kv_by_every_sequence():
    assert step_bytes(SHAPE, 1, 0) == 10_000_000
    assert step_bytes(SHAPE, 16, 500) == 10_000_000 + 16 * 500 * 1_000


def test_flops_of_an_output_token_grow_with_its_context():
    assert decode_flops(SHAPE, 500) == 10_000_000 + 500 * 4_000


def test_a_prompt_token_skips_the_head_and_sees_half_of_its_prompt():
    assert prefill_flops(SHAPE, 400) == 8_000_000 + 200 * 4_000


def test_the_slower_of_reading_and_computing_binds():
    reading = lower_bound(100, 10, bytes_per_s=10, flops_per_s=10)
    computing = lower_bound(10, 100, bytes_per_s=10, flops_per_s=10)
    assert (reading.seconds, reading.binds) == (10, "memory bandwidth")
    assert (computing.seconds, computing.binds) == (10, "compute")


def test_an_unknown_peak_leaves_the_reading():
    bound = lower_bound(100, 1e30, bytes_per_s=10, flops_per_s=None)
    assert (bound.seconds, bound.binds) == (10, "memory bandwidth")


def test_prompts_share_the_machine_where_compute_binds():
    # r = 2 at context 500: the prompt is 500 x 2 / 2.5 = 400 tokens long.
    per_output = (10_000_000 + 500 * 4_000) / 100e9
    per_input = (8_000_000 + 200 * 4_000) / 100e9
    bound = step_bound(SHAPE, 16, 500, 2.0, bytes_per_s=50e9, flops_per_s=100e9)
    assert bound.binds == "compute"
    assert 16 / bound.seconds == pytest.approx(1 / (per_output + 2.0 * per_input))


def test_limit_of_one_user_is_one_pass_over_the_weights_and_its_kv():
    limit = limit_for(FACTS, {"kind": "closed", "concurrency": 1}, 500, 0.0, HARDWARE)
    # (10 MB + 0.5 MB) / 50 GB/s = 210 us; 12 MFLOP / 100 GFLOP/s = 120 us.
    assert limit["user_speed"] == pytest.approx(1 / 210e-6)
    assert limit["output_throughput"] == pytest.approx(1 / 210e-6)
    assert limit["binds"] == "memory bandwidth"


def test_limit_at_sixteen_is_bound_by_compute():
    limit = limit_for(FACTS, CLOSED_16, 500, 0.0, HARDWARE)
    # Reading 18 MB takes 360 us, computing 16 x 12 MFLOP 1,920 us.
    assert limit["output_throughput"] == pytest.approx(16 / 1920e-6)
    assert limit["user_speed"] == pytest.approx(1 / 210e-6)
    assert limit["binds"] == "compute"
    for said in ("10.0 MB of weights", "16 sequences", "50 GB/s", "100 GFLOP/s", "fp32"):
        assert said in limit["basis"]


def test_open_loop_takes_as_many_sequences_as_the_pool_holds():
    limit = limit_for(FACTS, {"kind": "open", "rate": 2.0}, 500, 0.0, HARDWARE)
    # 1,600 slots of KV hold 3 sequences of 500: 11.5 MB in 230 us, 36 MFLOP in 360 us.
    assert limit["output_throughput"] == pytest.approx(3 / 360e-6)
    assert "the KV of 3 sequences" in limit["basis"]


def test_precision_without_a_measured_peak_is_bound_by_reading_and_says_so():
    limit = limit_for({**FACTS, "compute": "bf16"}, CLOSED_16, 500, 3.0, HARDWARE)
    assert limit["output_throughput"] == pytest.approx(16 / 360e-6)
    assert "at an unknown peak in bf16" in limit["basis"]


@pytest.mark.parametrize(
    ("facts", "hardware", "why"),
    [
        (None, HARDWARE, "does not tell"),
        (FACTS, None, "not measured"),
        ({**FACTS, "device": "cuda:0"}, HARDWARE, "runs on cuda:0"),
    ],
)
def test_what_is_not_known_has_no_limit_and_a_reason(facts, hardware, why):
    limit = limit_for(facts, CLOSED_16, 500, 1.0, hardware)
    assert [limit[k] for k in ("output_throughput", "user_speed", "fraction")] == [None] * 3
    assert limit["binds"] == "unknown"
    assert why in limit["basis"]
