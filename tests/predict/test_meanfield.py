"""The closed loop's arithmetic, against the simulator that walks every step."""

import numpy as np
import pytest

from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.meanfield import operating_point, split_point
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.sheet import device
from penstock.predict.steptime import Costs, MeasuredStepTime, StepLoad
from penstock.simulate.fleet import Fleet, Group
from penstock.simulate.run import simulate
from penstock.workload.lengths import Lengths
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source

STEP = PhysicalStepTime(Deployment(architecture("llama-3.1-8b"), device("h100")))


def test_one_request_alone_is_plain_arithmetic():
    found = operating_point(STEP, prompt=1000, output=101, concurrency=1)
    decode = STEP.seconds(StepLoad(0, 0, 1, 1050.5, 1))
    prefill = STEP.seconds(StepLoad(1000, 500_000, 0, 0, 1))
    assert found.tpot_s == pytest.approx(decode, rel=0.01)
    assert found.ttft_s == pytest.approx(prefill + STEP.request_s, rel=0.3)
    assert found.output_tokens_per_s == pytest.approx(
        101 / (found.ttft_s + 100 * found.tpot_s), rel=0.001
    )


@pytest.mark.parametrize("concurrency", [1, 4, 16, 64])
@pytest.mark.parametrize(("prompt", "output"), [(128, 128), (1024, 256), (2048, 64)])
def test_it_agrees_with_the_simulator(prompt, output, concurrency):
    """Lengths drawn, as the mean field supposes where requests are not in step."""
    found = operating_point(STEP, prompt=prompt, output=output, concurrency=concurrency)
    source = Source(
        prompts=Sketches(),
        input_len=Lengths(kind="uniform", a=prompt // 2, b=3 * prompt // 2),
        output_len=Lengths(kind="uniform", a=output // 2, b=3 * output // 2),
        seed=1,
    )
    plan = source.closed(concurrency, 20 * concurrency, 0)
    group = Group(kv_tokens=400_000)
    result = simulate(Fleet(replicas=(group,)), plan, steps=(STEP,))
    late = result.column("asked_ns") > 0.2 * result.end_ns
    steady = late & (result.column("last_ns") < 0.9 * result.end_ns)
    spoken = result.column("output_tokens")[steady] - 1
    tpot = np.sum(result.tpot_s[steady] * spoken) / np.sum(spoken)
    assert found.tpot_s == pytest.approx(tpot, rel=0.15)


def test_more_at_once_gives_more_in_all_and_less_to_each():
    points = [operating_point(STEP, prompt=512, output=256, concurrency=c) for c in (1, 8, 64, 256)]
    totals = [p.output_tokens_per_s for p in points]
    assert totals == sorted(totals)
    assert [p.tpot_s for p in points] == sorted(p.tpot_s for p in points)
    assert points[0].binds == "weights"
    assert operating_point(STEP, prompt=8000, output=256, concurrency=64).binds == "kv"


def test_a_small_pool_makes_requests_wait():
    roomy = operating_point(STEP, prompt=1000, output=1000, concurrency=64)
    tight = operating_point(STEP, prompt=1000, output=1000, concurrency=64, kv_tokens=24_000)
    assert tight.binds == "KV capacity"
    assert tight.running == pytest.approx(16)
    assert tight.ttft_s > 10 * roomy.ttft_s
    # Little's law: what is under way equals rate times time.
    rate = tight.output_tokens_per_s / 1000
    assert rate * (tight.ttft_s + 999 * tight.tpot_s) == pytest.approx(64)
    seats = operating_point(STEP, prompt=10, output=10, concurrency=64, max_running=8)
    assert seats.binds == "seats"


def test_prompts_first_in_step_hands_the_wait_to_the_first_token():
    case = {"prompt": 1024, "output": 256, "concurrency": 64, "in_step": True, "rounds": 10}
    mixed = operating_point(STEP, **case)
    first = operating_point(STEP, **case, order="prompts first")
    assert first.ttft_s > mixed.ttft_s
    assert first.tpot_s < mixed.tpot_s


def test_a_split_is_held_back_by_its_busier_half():
    step = MeasuredStepTime(Costs(read=0.01, compute=1e-4))
    case = {"prompt": 1000, "output": 200, "concurrency": 200}
    starved = split_point(step, step, prefills=1, decodes=8, **case)
    assert starved.binds == "prefill"
    # A prompt takes 0.1 s, so ten a second at most.
    assert starved.output_tokens_per_s == pytest.approx(10 * 200, rel=0.1)
    fed = split_point(step, step, prefills=16, decodes=1, **case)
    assert fed.binds == "decode"
    assert fed.ttft_s < 0.3
    assert fed.tpot_s == pytest.approx(0.0218, rel=0.1)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="output=0 must be at least 1"):
        operating_point(STEP, prompt=1, output=0, concurrency=1)
    with pytest.raises(ValueError, match="need 3,000 tokens of KV, the pool holds 2,000"):
        operating_point(STEP, prompt=2000, output=1000, concurrency=1, kv_tokens=2000)
