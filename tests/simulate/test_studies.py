"""The studies' findings, on smaller loads than those that are published."""

from __future__ import annotations

import pytest

from benchmarks import disaggregation_study, routing_study
from penstock.workload.arrivals import Ramp


@pytest.mark.slow
def test_routing_by_prefix_comes_out_in_the_published_order() -> None:
    found = routing_study.study(routing_study.plan(100, Ramp(20.0, 60.0, 60.0)))
    rate = {name: figures["output_tokens_per_s"] for name, figures in found.items()}
    wait = {name: figures["ttft_mean_s"] for name, figures in found.items()}
    assert rate["precise"] > rate["approximate"] > rate["by load"]
    assert rate["random"] == pytest.approx(rate["by load"], rel=0.1)
    assert 1.4 < rate["precise"] / rate["by load"] < 3
    assert wait["precise"] < wait["approximate"] / 10
    assert wait["approximate"] < wait["by load"]


@pytest.mark.slow
def test_a_split_wins_with_long_prompts_and_loses_with_slow_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disaggregation_study, "REQUESTS", 200)
    monkeypatch.setattr(disaggregation_study, "EXACT", 1.15)
    kind = disaggregation_study.KINDS["long prompts"]
    whole = disaggregation_study.capacity(disaggregation_study.whole(512), kind)
    fast, slow = (
        disaggregation_study.capacity(disaggregation_study.split(6, link), kind)
        for link in (50e9, 3.1e9)
    )
    assert fast > 1.2 * whole
    assert slow < 0.5 * whole
