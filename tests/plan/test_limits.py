"""What one replica is allowed: KV capacity by hand, tables that agree, errors with a way out."""

from itertools import pairwise

import pytest

from penstock.plan.limits import limits
from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import device


def placed(model="llama-3.1-8b", on="h100", weights="bf16", kv="bf16", **split):
    return Deployment(architecture(model), device(on), weights, kv, **split)


def test_the_pool_holds_what_the_weights_leave():
    found = limits(placed(), 1000, 200)
    room = 0.9 * 84.94e9 - 1.2e9 - 2 * architecture("llama-3.1-8b").parameters
    assert found.kv_tokens == pytest.approx(room / 131_072)
    assert found.largest_batch == int(room / 131_072 / 1100)


def test_the_table_goes_from_one_sequence_to_the_largest_batch():
    found = limits(placed(), 1000, 200)
    assert [step.batch for step in found.decode][:4] == [1, 2, 4, 8]
    assert found.decode[-1].batch == found.largest_batch
    assert [step.batch for step in found.served] == [step.batch for step in found.decode]


def test_more_sequences_give_more_in_all_and_less_to_each():
    for steps in (limits(placed(), 1000, 200).decode, limits(placed(), 1000, 200).served):
        assert all(a.tokens_per_s <= b.tokens_per_s * 1.0001 for a, b in pairwise(steps))
        assert all(a.user_tokens_per_s >= b.user_tokens_per_s for a, b in pairwise(steps))


def test_what_is_usual_lies_below_the_ceiling_and_its_parts_add_up_to_at_least_as_much():
    found = limits(placed("llama-3.1-70b", "h200", "fp8", "fp8", tp=4), 1000, 200)
    for step in (*found.decode, *found.served, found.prefill):
        assert step.usually_tokens_per_s < step.tokens_per_s
        assert sum(step.parts_s.values()) >= step.usually_s * 0.999


def test_prompts_cost_throughput():
    found = limits(placed(), 2000, 100)
    assert found.served[-1].tokens_per_s < found.decode[-1].tokens_per_s
    assert found.served[-1].binds == "compute"


def test_overhead_binds_in_practice_where_a_small_model_meets_fast_memory():
    found = limits(placed("qwen3-0.6b", "h200"), 100, 100, [1])
    assert found.decode[0].usually_binds == "overhead"
    assert found.decode[0].binds == "weights"


def test_the_crossover_is_one_of_batches():
    short = limits(placed(), 16, 16, [1])
    assert short.crossover is not None
    assert limits(placed(), 4000, 1000, [1]).crossover is None


@pytest.mark.parametrize(
    ("deployment", "arguments", "says"),
    [
        (
            {"model": "llama-3.1-70b"},
            (1000, 200),
            r"141\.1 GB of weights .*75\.2 GB.*would fit with --tp 2 or --weights fp4",
        ),
        ({"model": "llama-3.1-405b", "on": "l4"}, (1000, 200), "No --tp up to 8 or format"),
        ({}, (200_000, 200), r"prompt=200000 and output=200 .*llama-3.1-8b holds 131,072"),
        ({}, (0, 200), r"prompt=0 must be at least 1"),
        ({}, (100, -2), r"output=-2 must be at least 1"),
        ({}, (1000, 200, [100_000]), r"batch=100000 .*does not fit: the KV pool holds 410"),
        (
            {"on": "rtx-4090"},
            (50_000, 200),
            r"needs 50,200 tokens of KV; .*room for 41,\d+\. It would fit with --tp 4\.",
        ),
    ],
)
def test_what_cannot_be_is_told_its_numbers_and_a_way_out(deployment, arguments, says):
    with pytest.raises(ValueError, match=says):
        limits(placed(**deployment), *arguments)
