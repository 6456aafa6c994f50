"""Break-even in time and in money, against answers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.predict.steptime import Costs, MeasuredStepTime
from penstock.prompts.breakeven import bill, break_even, least_tokens, most_kept
from penstock.prompts.prefill import MeasuredPrefill, measured, steady, told
from penstock.record.price import Price, parse_price


def test_at_steady_rates_the_share_is_what_rating_leaves() -> None:
    target, score = steady(1000), steady(10_000)
    # n/1000 = n/10000 + k n/1000, so k = 0.9 at every length.
    assert most_kept(target, score, 5000) == pytest.approx(0.9, abs=2e-4)
    found = break_even(target, score, 2000, 1000)
    assert found.least_tokens == 1
    assert found.times.saved_s == pytest.approx(2 - 0.2 - 1)
    losing = break_even(target, score, 2000, 1900)
    assert losing.times.saved_s < 0
    assert losing.least_tokens is None
    assert most_kept(target, steady(900), 5000) is None


def test_a_fixed_cost_of_rating_needs_a_length_to_pay() -> None:
    def score(tokens: int) -> float:
        return 0.5 + tokens / 10_000

    # n/1000 - n/2000 - n/10000 = 0.5 at n = 1250.
    assert least_tokens(steady(1000), score, 0.5) == pytest.approx(1250, abs=2)
    assert least_tokens(steady(1000), score, 0.5, longest=1000) is None


def test_attention_makes_long_prompts_pay() -> None:
    def target(tokens: int) -> float:
        return tokens / 1000 + (tokens / 1000) ** 2

    # With x in thousands: x + x^2 = 0.3 x + 0.9 x + 0.81 x^2, so x = 0.2 / 0.19.
    assert least_tokens(target, steady(1000 / 0.3), 0.9) == pytest.approx(1053, abs=3)


def test_a_measured_prefill_adds_chunks_and_what_they_read() -> None:
    prefill = MeasuredPrefill(rows=[50, 100], seconds=[1.0, 2.0], pair_s=0.001, step=100)
    assert prefill(75) == pytest.approx(1.5)
    # Chunks of 100, 100 and 50 with 0, 100 and 200 tokens before them.
    assert prefill(250) == pytest.approx(2 + (2 + 10) + (1 + 10))


def test_a_known_step_time_gives_a_prefill() -> None:
    step = MeasuredStepTime(Costs(read=0.0, compute=0.001, attention=1e-6, step=0.01))
    assert told(step, most=100)(150) == pytest.approx(2 * 0.01 + 0.15 + 1e-6 * 150 * 151 / 2)


def test_measuring_an_engine_finds_its_own_times() -> None:
    options = EngineOptions(max_running=1, max_step_tokens=128, kv_tokens=2048, threads=1)
    prefill = measured(Engine.load("embedded-draft", options), rounds=1)
    assert prefill.step == 128
    assert prefill.rows[-1] == 128
    assert 0 < prefill(16) <= prefill(512) < prefill(1024) < 5
    assert measured(Engine.load("embedded-draft", options), rates=True, rounds=1).context == 2048


def mask(*runs: int) -> NDArray[np.bool_]:
    """Tokens that go and that stay, in turn."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def test_a_cached_prefix_can_cost_less_than_a_shorter_prompt() -> None:
    price = parse_price("in=1,cached=0.1,out=5")
    halves = mask(*[1] * 1000)
    found = bill(price, halves, cached=1000)
    assert found.whole == pytest.approx(100)
    assert found.shortened == pytest.approx(500)
    assert found.most_kept == pytest.approx(0.1)  # a share above cached / in loses
    assert found.again == pytest.approx(50)
    part = bill(price, halves, cached=400)
    assert part.whole == pytest.approx(640)
    assert part.rest == pytest.approx(40 + 300)
    assert part.shortened < part.whole
    uncached = bill(price, halves, 0)
    assert uncached.rest == uncached.shortened == pytest.approx(500)


def test_the_cache_holds_a_prompt_up_to_its_first_change() -> None:
    price = parse_price("in=1,cached=0.1,out=5")
    found = bill(price, mask(0, 300, 100, 100, 400, 100), cached=600)
    assert (found.held, found.kept) == (300, 500)
    assert found.whole == pytest.approx(400 + 60)
    assert found.shortened == pytest.approx(200 + 30)
    assert found.rest == pytest.approx(100 + 60)  # only the last hundred stay of what is not cached
    assert found.again == pytest.approx(100 + 40)
    assert bill(price, mask(0, 730, 270), 600).most_kept == pytest.approx(found.most_kept + 0.27)
    same = bill(price, mask(0, 1000), cached=900)
    assert same.shortened == same.whole == same.rest == same.again


def test_bills_refuse_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="nothing of prompt tokens"):
        bill(Price(per_hour=2.5), mask(5, 5), 0)
    with pytest.raises(ValueError, match="cached=11"):
        bill(Price(input=1.0, cached=0.1, output=1.0), mask(5, 5), 11)
