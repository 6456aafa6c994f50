"""Questions as tests ask them."""

import pytest

from penstock.plan import replay
from penstock.plan.demand import Demand
from penstock.plan.question import Question, priced
from penstock.predict.architecture import architecture
from penstock.predict.sheet import device
from penstock.record.slo import parse_slos
from penstock.workload.lengths import parse_lengths


@pytest.fixture(scope="module")
def brief():
    """Replays of seconds: what a plan says does not depend on how sure it is."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            *(("JUDGED_S", 10.0), ("ANSWERS", 2.0), ("LEAST", 100), ("MOST", 300)),
            *(("LEAST_WAITING", 400), ("FULL_HOUSES", 2)),
        ):
            patch.setattr(replay, name, value)
        yield


def question(
    rate=20.0,
    prompt="1500",
    output="300",
    *,
    model="llama-3.1-8b",
    hardware="h100",
    slo="ttft.p95<1s,tpot.p95<50ms",
    weights=("bf16", "fp8"),
    split=True,
    seed=0,
    **more,
):
    return Question(
        model=architecture(model),
        demand=Demand(
            rate=rate, prompt=parse_lengths(prompt), output=parse_lengths(output), **more
        ),
        slos=parse_slos(slo),
        hardware=[priced(device(name)) for name in hardware.split(",")],
        weights=weights,
        split=split,
        seed=seed,
    )
