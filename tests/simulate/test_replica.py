"""One replica against arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.predict.steptime import StepLoad
from penstock.simulate import Fleet, Group, plan_of, simulate
from penstock.simulate.fleet import Speculation
from penstock.simulate.speculation import Speculating
from penstock.workload.sessions import Sessions
from penstock.workload.shapes import Prefix
from penstock.workload.traces import Trace
from tests.simulate.worlds import Linear, check, source


def fleet(**group) -> Fleet:
    return Fleet(replicas=(Group(**{"kv_tokens": 100_000} | group),))


def trace(*rows: tuple[float, int, int]) -> Trace:
    at, prompt, output = zip(*rows, strict=True)
    return Trace(
        format="test",
        at_s=np.array(at, dtype=float),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
    )


def test_one_request_alone() -> None:
    step = Linear(step=0.01, token=1e-4, context=1e-6)
    result = simulate(fleet(), plan_of(trace((0, 100, 5))), steps=[step], events=True)
    check(result)
    first = 0.01 + 100e-4
    later = [0.01 + 1e-4 + 1e-6 * context for context in (101, 102, 103, 104)]
    record = result.records()[0]
    assert record.first_ns == pytest.approx(first * 1e9, abs=1)
    assert np.diff(record.event_ns) == pytest.approx(np.array(later) * 1e9, abs=2)
    assert result.replicas[0].steps == 5
    assert result.replicas[0].prefill_tokens == 100
    assert result.replicas[0].busy == pytest.approx(1.0)


def test_what_a_request_spends_outside_of_steps_is_in_its_ttft() -> None:
    step = Linear(step=0.01, token=0, context=0)
    step.request_s = 0.05
    result = simulate(fleet(), plan_of(trace((0, 100, 5))), steps=[step])
    assert result.ttft_s.tolist() == pytest.approx([0.06])


def test_a_newcomer_waits_for_the_step_under_way() -> None:
    step = Linear(step=0.01, token=0, context=0)
    result = simulate(
        fleet(), plan_of(trace((0, 10, 100), (0.0951, 10, 2))), steps=[step], events=True
    )
    late = next(record for record in result.records() if record.request_id == "1")
    assert late.first_ns == pytest.approx(0.11e9, abs=1)  # begins at 0.10, with the eleventh step
    assert late.last_ns == pytest.approx(0.12e9, abs=1)


def test_a_prompt_longer_than_a_step_takes_chunks_beside_decodes() -> None:
    step = Linear(step=0.01, token=0, context=0)
    policy = {"preset": "vllm", "max_running": 4, "max_step_tokens": 101}
    result = simulate(
        fleet(policy=policy), plan_of(trace((0, 10, 50), (0.001, 400, 2))), steps=[step]
    )
    # 400 tokens at 100 a step beside one decode, from the second step on.
    assert result.ttft_s[result.column("prompt_tokens") == 400] + 0.001 == pytest.approx(0.05)


def test_a_shared_prefix_is_computed_once() -> None:
    plan = source(Prefix(1, 160), prompt="16").open(law("constant:10"), count=5)
    result = simulate(fleet(), plan, steps=[Linear()])
    assert sorted(result.column("cached_tokens").tolist()) == [0, 160, 160, 160, 160]
    assert result.replicas[0].prefill_tokens == 176 + 4 * 16


def test_a_session_finds_what_it_said_before() -> None:
    plan = source(Sessions(3, 3, 0.5), prompt="100", output="60").closed(1, 1)
    result = simulate(fleet(), plan, steps=[Linear()])
    assert result.column("prompt_tokens").tolist() == [100, 260, 420]
    # All full pages of what was computed before; the last token said was not.
    assert result.column("cached_tokens").tolist() == [0, 144, 304]
    assert result.table.column("session_end").to_pylist() == [None, None, "completed"]
    assert result.column("turn").tolist() == [0, 1, 2]


def test_a_closed_loop_keeps_its_slots_and_its_think_time() -> None:
    plan = source().closed(3, 12, think_s=2.0)
    result = simulate(fleet(), plan, steps=[Linear()])
    asked = np.sort(result.column("asked_ns"))
    ends = np.sort(result.column("end_ns"))
    assert (asked[:3] == 0).all()
    assert asked[3:] == pytest.approx(ends[:9] + 2e9, abs=1)


def test_the_load_stops_and_what_is_under_way_ends() -> None:
    plan = source().closed(2, 1000)
    result = simulate(fleet(), plan, steps=[Linear()], until_s=3.0)
    check(result)
    assert result.stop_ns == 3_000_000_000
    assert result.column("asked_ns").max() <= 3e9 < result.end_ns
    assert len(result.table) < 1000


def test_samples_of_a_prompt_share_it() -> None:
    plan = source(n=3, prompt="160").closed(1, 2)
    result = simulate(fleet(), plan, steps=[Linear()])
    assert result.column("choice").tolist() == [0, 1, 2, 0, 1, 2]
    # All but the last token, in whole pages, once for the three.
    assert result.replicas[0].prefill_tokens == 2 * (160 + 2 * 16)


def test_speculation_in_the_mean() -> None:
    speculation = Speculation(draft_tokens=3, acceptance=0.5, draft_s=0.001)
    assert speculation.tokens_a_step == 1.875
    step = Linear(step=0.01, token=1e-4, context=0)
    faster = Speculating(step, speculation)
    decoding = StepLoad(0, 0, 8, 8000, 8)
    assert faster.seconds(decoding) == pytest.approx((0.01 + 32e-4 + 0.001) / 1.875)
    alone = StepLoad(100, 5050, 0, 0, 1)
    assert faster.seconds(alone) == step.seconds(alone)
    mixed = StepLoad(100, 5050, 8, 8000, 9)
    assert faster.seconds(mixed) == pytest.approx(faster.seconds(decoding) + 100e-4)
    never = Speculating(step, Speculation(draft_tokens=3, acceptance=0.0))
    assert never.seconds(decoding) > step.seconds(decoding)


def law(text: str):
    from penstock.workload.arrivals import parse_arrival

    return parse_arrival(text)
