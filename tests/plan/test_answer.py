"""What a plan says: hand arithmetic, honest ends, and when to leave a technique alone."""

import math
from io import StringIO

import msgspec
import numpy as np
import pytest
from rich.console import Console

from penstock.plan import advice, fleetfile
from penstock.plan.answer import answer
from penstock.plan.api import parse_api
from penstock.plan.basis import Steps
from penstock.plan.curve import day_of
from penstock.plan.models import Plans, plan_all
from penstock.plan.options import NoFleet, options
from penstock.plan.replay import Replayed, Replays
from penstock.plan.search import Sized
from penstock.predict import stepfile
from penstock.predict.stepfile import Named, Parameters, StepFile
from penstock.predict.steptime import Efficiencies, Overheads
from penstock.report import plan as report
from penstock.simulate.fleet import read_fleet
from penstock.simulate.machine import machine
from tests.plan.asked import brief, question

__all__ = ["brief"]
RATE = 12.0
pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture(scope="module")
def made(brief):
    asked = question(
        RATE,
        "1000",
        "200",
        hardware="l4,l40s",
        slo="ttft.p95<3s,tpot.p95<35ms",
        split=False,
        batch=0.4,
        mean_share=1 / 1.8,
    )
    return asked, answer(
        asked, Steps(), prices=[parse_api("0.10,0.10")], curve=day_of(RATE, 0.8), startup_s=600.0
    )


def test_cost_is_devices_times_price(made):
    _, found = made
    for fleet in found.fleets:
        hourly = fleet.devices * fleet.usd_per_device_hour
        mean = RATE / 1.8
        assert fleet.cost.per_hour == pytest.approx(hourly)
        assert fleet.cost.per_month == pytest.approx(hourly * 730)
        assert fleet.cost.per_request == pytest.approx(hourly / (mean * 3600))
        assert fleet.cost.per_million_tokens == pytest.approx(hourly / (mean * 3600 * 1200) * 1e6)
    assert found.fleets == sorted(found.fleets, key=lambda fleet: fleet.cost.per_hour)
    assert {fleet.hardware for fleet in found.fleets} == {"l4", "l40s"}


def test_limits_hold_and_time_adds_up(made):
    asked, found = made
    for fleet in found.fleets:
        for slo in asked.slos:
            assert fleet.response.limits[str(slo)] <= slo.limit_s
        assert 0 < fleet.utilisation <= 1
        assert fleet.carries * fleet.replicas >= RATE * (1 - 1e-9)
    assert found.headroom.factor >= 1
    assert found.headroom.saturated > RATE


def test_the_three_ends(made):
    _, found = made
    capability, driver, change = found.ends
    best = found.fleets[0]
    each = found.headroom.factor * RATE / best.replicas
    assert f"carries {each:.3g} requests/s" in capability
    assert "not measured" in capability
    assert "off by" in capability
    assert "penstock calibrate" in capability
    assert "device-seconds" in driver
    assert f"{best.devices / (RATE / 1.8):.3g}" in driver
    assert f"above {found.headroom.factor * RATE:.3g} requests/s" in change
    assert "prompts beyond" in change
    low, high = found.interval.replicas
    assert low <= best.replicas <= high


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_terminal_wraps_names_but_no_figures(made, width):
    longest = "8 × rtx-pro-6000, fp8, experts on 8, split"
    fleets = [msgspec.structs.replace(fleet, name=longest) for fleet in made[1].fleets]
    console = Console(file=StringIO(), width=width)
    shown = msgspec.structs.replace(made[1], fleets=fleets)
    report.show(Plans(answers=[shown], unserved={}, beside=[]), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for fleet in fleets:
        figures = " ".join(" ".join(report.cells(fleet)).split())
        assert any(" ".join(line.split()).endswith(figures) for line in lines)


def test_an_api_and_the_day(made):
    _, found = made
    [api] = found.api
    assert api.api_per_request == pytest.approx(1200 * 0.1e-6)
    hourly = found.fleets[0].cost.per_hour
    assert api.break_even_rate == pytest.approx(hourly / 3600 / 120e-6)
    moved, hours = found.off_peak, found.hours
    each = found.headroom.factor * RATE / found.fleets[0].replicas
    assert moved.replicas_before == found.fleets[0].replicas
    assert moved.replicas_after == max(math.ceil(0.6 * RATE / each), math.ceil(RATE / 1.8 / each))
    saved = moved.replicas_before - moved.replicas_after
    price = found.fleets[0].cost.per_hour / found.fleets[0].replicas
    assert moved.usd_per_month_saved == pytest.approx(saved * price * 730)
    assert (
        hours.usd_followed < hours.usd_standing == pytest.approx(24 * hours.peak_replicas * price)
    )


def test_the_fleet_is_one_that_the_simulator_reads(made, tmp_path):
    _, found = made
    path = tmp_path / "f.toml"
    fleetfile.write(found.sim, path, found.fitted)
    again = read_fleet(path)
    assert again == found.sim
    assert sum(group.count for group in again.replicas) == found.fleets[0].replicas


def said(found, topic):
    [one] = (advice for advice in found.advice if advice.topic == topic)
    return one


def test_a_demand_that_one_device_carries_needs_no_technique():
    found = answer(question(1.0, "500", "100", split=True), Steps())
    best = found.fleets[0]
    assert (best.devices, best.weights, best.prefill_replicas) == (1, "bf16", 0)
    assert not said(found, "quantize").do
    assert said(found, "quantize").says.startswith("Do not quantize")
    assert not said(found, "split").do
    assert said(found, "split").says.startswith("Do not split")


def test_speculation_is_advised_against_where_steps_compute():
    # At once on a replica, by Little's law: 2 answers, or 400, of which a step checks 1,600 tokens.
    asked = question(2.0, "100", "101", hardware="a100", split=False, weights=("bf16",))
    option = options(asked, Steps())[0]
    step = Steps().of(option.candidate.deployment)
    for tpot, do in ((0.01, True), (2.0, False)):
        replayed = Replayed(
            met=True, limits={}, requests=1, queue_s=0, prefill_s=0, decode_s=0, tpot_s=tpot
        )
        fleet = Sized(option=option, replicas=1, prefill=0, replayed=replayed, rate=2.0)
        found = advice.speculate(fleet, step, asked)
        assert found.do == do
        assert ("Do not speculate" in found.says) != do
        assert "2.53 tokens where 70% are accepted" in found.says


def test_splitting_is_advised_where_prompts_are_long_and_the_pace_is_tight():
    slo = "ttft.p95<1s,tpot.p95<12ms"
    found = answer(question(10.0, "8000", "200", slo=slo, weights=("fp8",)), Steps())
    best = found.fleets[0]
    assert best.prefill_replicas >= 1
    assert best.devices == best.replicas + best.prefill_replicas
    assert said(found, "split").do
    assert said(found, "split").says.startswith("Split: ")
    roles = [group.role for group in found.sim.replicas]
    assert roles == ["prefill", "decode"]


def test_splitting_is_not_looked_at_if_not_wanted():
    found = answer(question(1.0, "500", "100", split=False), Steps())
    assert said(found, "split").says == "Not looked at, as asked."


def test_a_calibrated_file_speaks_for_its_device(tmp_path):
    path = tmp_path / "fitted.toml"
    slow = Parameters(
        efficiencies=Efficiencies(bandwidth=0.4, kv=0.4, attention=0.25), overheads=Overheads()
    )
    slower = msgspec.structs.replace(slow, overheads=Overheads(step_s=0.004))
    stepfile.write(
        StepFile(
            deployment=Named(model="llama-3.1-8b", device="h100"),
            estimate=slow,
            draws=[slow, slower],
            fit={"source": "runs/x"},
        ),
        path,
    )
    asked = question(1.0, split=False, weights=("bf16",))
    sheet, fitted = answer(asked, Steps()), answer(asked, Steps(path))
    assert fitted.fleets[0].carries < 0.8 * sheet.fleets[0].carries
    assert not sheet.basis.measured
    assert fitted.basis.measured
    assert "runs/x" in fitted.ends[0]
    assert 1 <= fitted.basis.low < fitted.basis.high < 1.5
    beside = tmp_path / "f.toml"
    fleetfile.write(fitted.sim, beside, fitted.fitted)
    [group] = read_fleet(beside).replicas
    assert stepfile.read(tmp_path / group.steptime).estimate == slow
    assert machine(group).pages > 1000
    elsewhere = answer(question(1.0, hardware="h200", split=False), Steps(path))
    assert not elsewhere.basis.measured


def test_a_file_of_no_hardware_is_refused(tmp_path):
    path = tmp_path / "fitted.toml"
    path.write_text("format = 1\n[estimate.costs]\nread = 0.01\n")
    with pytest.raises(ValueError, match="without model and hardware"):
        Steps(path)


def test_a_prefix_cache_makes_a_replica_carry_more():
    plain, cached = (question(2.0, "4000", "50", split=False, cached=share) for share in (0.0, 0.9))
    option = options(cached, Steps())[0]
    assert option.flow.rate > 2 * options(plain, Steps())[0].flow.rate
    found = Replays(cached, Steps()).play(option, 1, 0, np.arange(50.0))
    assert found.column("cached_tokens")[1:].mean() == pytest.approx(3600, rel=0.01)
    assert found.ttft_s[1:].mean() < 0.05


def test_models_beside_each_other():
    asked = [
        question(10.0, "1000", "100", model=m, split=False)
        for m in ("llama-3.1-70b", "llama-3.1-8b")
    ]
    found = plan_all(asked, Steps(), prices=[], curve=None, startup_s=60.0)
    large, small = (each.fleets[0].cost for each in found.answers)
    [sentence] = found.beside
    assert (
        f"llama-3.1-8b costs {small.per_month / large.per_month:.0%} of llama-3.1-70b" in sentence
    )
    assert "quality" in sentence


def test_a_model_that_no_fleet_serves_does_not_hide_the_others():
    slo = "ttft.p95<3s,tpot.p95<90ms"
    asked = [
        question(1.0, model=name, hardware="l4", split=False, slo=slo)
        for name in ("llama-3.1-405b", "llama-3.1-8b")
    ]
    found = plan_all(asked, Steps(), prices=[], curve=None, startup_s=60.0)
    assert [each.model for each in found.answers] == ["llama-3.1-8b"]
    assert "llama-3.1-405b needs" in found.unserved["llama-3.1-405b"]


@pytest.mark.parametrize(
    ("slo", "named", "binds"),
    [
        ("ttft.p95<10ms", "ttft.p95<0.01s: the best of", "its prompt takes"),
        ("tpot.p95<1ms", "tpot.p95<0.001s: the best of", "a token takes"),
    ],
)
def test_an_slo_that_no_fleet_holds(slo, named, binds):
    with pytest.raises(NoFleet) as told:
        answer(question(slo=slo, hardware="h100,b200"), Steps())
    text = str(told.value)
    assert named in text
    assert binds in text
    assert "reaches" in text
    assert "To do: raise the limit" in text


def test_memory_that_does_not_hold_the_model_is_said():
    with pytest.raises(
        NoFleet, match=r"L4: llama-3\.1-405b needs 4\d\d GB in fp8 .* 8 devices hold"
    ):
        answer(question(model="llama-3.1-405b", hardware="l4"), Steps())


def test_a_context_too_long_and_no_limits_are_refused():
    with pytest.raises(ValueError, match=r"holds 131,072"):
        question(prompt="140000")
    with pytest.raises(ValueError, match="slo: no limit"):
        question(slo="")


def test_the_same_question_has_the_same_answer():
    asked = question(5.0, "500", "100", split=False)
    one, two = (msgspec.json.encode(answer(asked, Steps())) for _ in range(2))
    assert one == two
    assert not math.isnan(msgspec.json.decode(one)["headroom"]["factor"])
