"""The judge of the compression studies: a model beside its original."""

import pytest

pytest.importorskip("torch")
from benchmarks.judge import Judge, arguments

from penstock.engine.llm import LLM


@pytest.fixture(scope="module")
def judge():
    given = arguments(None).parse_args(["--tokens", "64", "--texts", "3", "--tasks", "1"])
    return Judge(LLM("embedded"), given)


def test_the_original_is_no_worse_than_itself(judge):
    assert judge.original["loss_over_original"] == 0.0
    assert judge.original["kl_to_original_nats"] == pytest.approx(0.0, abs=1e-6)
    assert len(judge.original["losses"]) == 3


def test_a_smaller_model_is_worse_and_elsewhere(judge):
    found = judge.figures(LLM("embedded-draft"))
    assert found["loss_nats"] > judge.original["loss_nats"]
    assert found["loss_over_original"] == pytest.approx(
        found["loss_nats"] / judge.original["loss_nats"] - 1, abs=1e-4
    )
    assert found["kl_to_original_nats"] > 0.01
    low, high = found["loss_over_original_ci95"]
    assert low < found["loss_over_original"] < high


def test_the_conditions_say_what_was_read(judge):
    told = judge.conditions
    assert (told["model"], told["held_out_tokens"]) == ("embedded", 3 * 64)
    assert told["doctests"] >= 1
    assert {"date", "dtype", "threads", "processor"} <= set(told)
