"""Random fleets and loads, and what must hold whatever happens on them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from penstock.predict.steptime import StepLoad
from penstock.record.record import Outcome
from penstock.simulate import Fleet, Group, Simulated
from penstock.simulate.books import OUTCOMES
from penstock.simulate.fleet import (
    Admission,
    Autoscale,
    Batch,
    Failure,
    Faults,
    Routing,
    Speculation,
    Split,
)
from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import Lengths, parse_lengths
from penstock.workload.plan import Plan
from penstock.workload.sessions import Sessions
from penstock.workload.shapes import Plain, Prefix
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source


class Linear:
    """A step time of constants: per step, per token, per token of context."""

    def __init__(self, step: float = 0.008, token: float = 2e-5, context: float = 1e-8) -> None:
        self.step, self.token, self.context = step, token, context
        self.request_s = 0.0

    def seconds(self, load: StepLoad) -> float:
        tokens = load.prefill_tokens + load.decodes
        return self.step + self.token * tokens + self.context * load.decode_context


PLAIN = Plain()


def source(shape: Any = PLAIN, prompt: str = "200", output: str = "40", **more: Any) -> Source:
    return Source(
        prompts=Sketches(),
        input_len=parse_lengths(prompt),
        output_len=parse_lengths(output),
        seed=1,
        shape=shape,
        **more,
    )


ROUTERS = ["round-robin", "random", "least-loaded", "power-of-two", "session", "prefix", "kv"]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Any fleet: tiny pools, every router, failures, scaling, a split, batch jobs."""
    split = draw(st.booleans())
    page_tokens = draw(st.sampled_from([1, 16]))
    max_running = draw(st.sampled_from([1, 3, 8]))
    policy = {
        "preset": draw(st.sampled_from(["vllm", "penstock"])),
        "max_running": max_running,
        "max_step_tokens": max_running + page_tokens + draw(st.integers(0, 300)),
        "max_waiting": draw(st.sampled_from([2, 1000])),
        "batching": draw(st.sampled_from(["continuous", "continuous", "continuous", "static"])),
        "prefix_sharing": draw(st.booleans()),
    }

    def group(role: Any, count: int) -> Group:
        return Group(
            count=count,
            role=role,
            kv_tokens=draw(st.sampled_from([160, 400, 3000])),
            page_tokens=page_tokens,
            policy=policy,
            link_bytes_per_s=1e6 if split else None,
            kv_bytes_per_token=1000.0,
            speculation=draw(
                st.sampled_from([None, None, Speculation(draft_tokens=3, acceptance=0.6)])
            ),
        )

    scale = None
    if split:
        groups = (
            group("prefill", draw(st.integers(1, 2))),
            group("decode", draw(st.integers(1, 2))),
        )
    else:
        groups = (group("whole", draw(st.integers(1, 3))),)
        if draw(st.booleans()):
            scale = Autoscale(min=1, max=4, target=3, interval_s=2.0, start_s=3.0, calm_s=4.0)
    count = sum(each.count for each in groups)
    failures = draw(
        st.lists(
            st.builds(
                Failure,
                replica=st.integers(0, count - 1),
                at_s=st.floats(0, 20),
                down_s=st.sampled_from([None, 3.0]),
            ),
            max_size=3,
        )
    )
    return Fleet(
        replicas=groups,
        router=Routing(
            policy=draw(st.sampled_from(ROUTERS)),  # type: ignore[arg-type]
            stale_s=draw(st.sampled_from([0.0, 1.0])),
        ),
        admission=Admission(
            max_outstanding=draw(st.sampled_from([None, 5])),
            patience_s=draw(st.sampled_from([None, 0.4])),
        ),
        split=Split(min_prompt_tokens=draw(st.sampled_from([0, 100]))),
        background_share=draw(st.sampled_from([0.0, 0.5])),
        retries=draw(st.integers(0, 2)),
        failures=tuple(failures),
        faults=draw(st.sampled_from([None, None, Faults(mean_up_s=8.0, mean_down_s=2.0)])),
        autoscale=scale,
        batch=draw(
            st.sampled_from(
                [None, None, Batch(requests=10, prompt_tokens=50, output_tokens=20, fill=2)]
            )
        ),
        context=draw(st.sampled_from([None, 300])),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any load: open, closed, sessions, shared prefixes, several samples."""
    shape = draw(st.sampled_from([Plain(), Prefix(2, 60), Sessions(1, 3, 1.0)]))
    n = 1 if isinstance(shape, Sessions) else draw(st.sampled_from([1, 1, 2]))
    made = Source(
        prompts=Sketches(),
        input_len=Lengths(kind="uniform", a=1, b=draw(st.sampled_from([20, 200]))),
        output_len=Lengths(kind="uniform", a=1, b=60),
        seed=draw(st.integers(0, 1000)),
        shape=shape,
        n=n,
    )
    count = draw(st.integers(1, 40))
    if draw(st.booleans()):
        return made.closed(
            draw(st.integers(1, 6)), count, think_s=draw(st.sampled_from([0.0, 0.3]))
        )
    return made.open(Poisson(draw(st.sampled_from([0.5, 3.0, 30.0]))), count=count)


def check(result: Simulated) -> None:
    """Every request has one end, and its times and counts make sense."""
    ids = Counter(
        zip(result.table.column("request_id").to_pylist(), result.column("choice"), strict=True)
    )
    assert set(ids.values()) <= {1}
    said, asked = result.column("output_tokens"), result.column("output_tokens_asked")
    done, outcomes = result.finished, result.column("outcome")
    assert (outcomes != OUTCOMES.index(Outcome.UNFINISHED)).all()
    assert (said[done] == asked[done]).all()
    assert (said <= asked).all()
    assert (said >= 0).all()
    assert (result.column("cached_tokens") <= result.column("prompt_tokens")).all()
    times = [
        result.column(f"{name}_ns").astype(float) for name in ("asked", "first", "last", "end")
    ]
    for earlier, later in pairwise(times):
        known = ~np.isnan(earlier) & ~np.isnan(later)
        assert (earlier[known] <= later[known]).all()
    assert not np.isnan(times[-1]).any()
    for moment in times[1:3]:
        assert not np.isnan(moment[said > 0]).any()
    errors = result.table.column("error").to_pylist()
    assert all((error is None) == bool(well) for error, well in zip(errors, done, strict=True))
