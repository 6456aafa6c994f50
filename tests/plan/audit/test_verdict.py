"""`penstock audit`: verdicts, bounds and what they rest on."""

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.plan.audit.blanks import readings
from penstock.plan.audit.claim import Baseline, Claim
from penstock.plan.audit.claim_text import parse
from penstock.plan.audit.evidence import evidence, reading_of
from penstock.plan.audit.facts import facts
from penstock.plan.audit.judge import judge
from penstock.plan.audit.measured import points
from penstock.plan.audit.reading import MOST_GAINED, ordinary, sure
from penstock.plan.audit.verdict import audit

CLAIMS = tomllib.loads((Path(__file__).parent / "claims.toml").read_text())["claim"]
ON_H200 = Claim(
    figure=2_900,
    whose="system",
    phase="served",
    model="llama-3.1-70b",
    precision="fp8",
    hardware="h200",
    devices=1,
    concurrency=128,
    prompt=1024,
    output=1024,
)
ALONE = Claim(
    figure=50.0,
    whose="user",
    phase="decode",
    model="llama-3.1-8b",
    precision="bf16",
    hardware="h100",
    devices=1,
    speculation=1.0,
    batch=1,
    prompt=1000,
    output=200,
)


def changed(claim, **fields):
    return Claim(**{f: getattr(claim, f) for f in claim.__struct_fields__} | fields)


def only(claim):
    [reading] = readings(claim)
    return reading


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["text"][:60])
def test_committed_verdicts(claim):
    made = audit(parse(claim["text"]))
    assert made.verdict == claim["verdict"], made.why
    assert set(claim.get("missing", ())) <= set(made.missing)
    assert len(made.questions) == len(made.missing)


def test_there_are_forty_claims_or_more_of_every_verdict():
    verdicts = [claim["verdict"] for claim in CLAIMS]
    assert len(verdicts) >= 40
    assert min(verdicts.count(v) for v in set(verdicts)) >= 8
    assert len(set(verdicts)) == 4


def test_the_ceiling_is_the_hand_calculation():
    # 8.03 B parameters in bf16 less the embedding's 128,256 x 4,096, read once a token;
    # K and V of 32 layers, 8 heads of 128, in 16 bits, over 1,000 + 100 tokens.
    weights = 2 * (8_030_261_248 - 128_256 * 4_096) + 2 * 4_096
    kv = 2 * 32 * 8 * 128 * 2 * 1_100
    assert ordinary(only(ALONE)).rate == pytest.approx(3.35e12 / (weights + kv), rel=1e-4)
    assert ordinary(only(ALONE)).binds == "reading weights"


def test_required_is_the_hand_calculation():
    need = audit(ALONE).required
    per_token = 3.35e12 / ordinary(only(ALONE)).rate
    assert need["bytes_per_s"] == pytest.approx(50 * per_token)
    assert need["available"]["bytes_per_s"] == 3.35e12
    assert need["weight_bytes"] == pytest.approx(16.06e9, rel=1e-3)
    assert need["kv_bytes"] == pytest.approx(2 * 32 * 8 * 128 * 2 * 1_100)
    assert need["tokens_per_step"] == 1


def test_speculation_moves_the_line_of_the_impossible_and_no_more():
    ceiling = ordinary(only(ALONE)).rate
    above = changed(ALONE, figure=1.5 * ceiling)
    assert audit(above).verdict == "impossible"
    assert audit(changed(above, speculation=None)).verdict == "implausible"
    far = changed(above, figure=1.5 * MOST_GAINED * ceiling, speculation=None)
    assert audit(far).verdict == "impossible"
    # One who tells of more gained tokens than anybody is taken at his word.
    assert audit(changed(far, speculation=20.0)).verdict != "impossible"


def test_speculation_cannot_save_arithmetic():
    full = changed(ALONE, whose="system", batch=4096, prompt=1, output=1, speculation=None)
    bound = sure(only(full)).rate
    told = sure(only(changed(full, speculation=8.0))).rate
    assert bound == pytest.approx(told)
    assert bound == pytest.approx(2 * 989e12 / (2 * 7.5e9), rel=0.03)


def test_sure_is_never_below_ordinary():
    for claim in (ON_H200, ALONE, changed(ON_H200, hardware=None), changed(ALONE, precision=None)):
        for reading in readings(claim):
            assert sure(reading).rate >= ordinary(reading).rate * (1 - 1e-9)


def test_a_verdict_only_gets_worse_as_the_figure_grows():
    order = ["plausible", "underspecified", "implausible", "impossible"]
    for claim in (
        ON_H200,
        changed(ON_H200, whose=None, devices=None),
        changed(ALONE, hardware=None),
    ):
        seen = [
            order.index(audit(changed(claim, figure=claim.figure * 4.0**k)).verdict)
            for k in range(-6, 10)
        ]
        assert seen == sorted(seen)


def test_memory_alone_makes_it_impossible():
    wide = changed(ON_H200, hardware="h100", precision="bf16", figure=1_000)
    made = audit(wide)
    assert made.verdict == "impossible"
    assert "141.1 GB of weights" in made.why[0]
    assert audit(changed(wide, devices=4)).verdict == "plausible"


def test_a_batch_must_be_held_but_requests_may_wait():
    crowd = changed(ON_H200, concurrency=5_000, prompt=8_192, figure=500)
    assert audit(crowd).verdict == "plausible"
    assert (
        audit(changed(crowd, concurrency=None, batch=5_000, figure=50_000)).verdict == "impossible"
    )


def test_what_was_measured_bounds_what_is_plausible():
    made = judge(only(changed(ON_H200, figure=5_500)))
    assert made.verdict == "implausible"
    assert made.ordinary.rate > 5_500
    assert made.evidence.best < 5_500 / 1.25
    assert {near.point.device for near in made.evidence.nearest} == {"h200"}


def test_every_measured_point_of_the_package_is_possible():
    # A sample: the whole is benchmarks/audit_validate.py.
    for p in points()[::40]:
        for kind in ("user", "system", "prefill"):
            if getattr(p, kind) is not None:
                found = judge(reading_of(p, kind))
                assert found.verdict == "plausible", (p, found.why)
                # Without its own model's points it is still not called impossible.
                assert judge(reading_of(p, kind), skip=p.model).verdict != "impossible"


def test_points_of_one_model_can_be_left_out():
    reading = only(ON_H200)
    named = evidence(reading, skip="llama-3.1-70b")
    assert all(near.point.model != "llama-3.1-70b" for near in named.nearest)


def test_unknown_numbers_of_devices_are_not_held_against_a_system():
    # DeepSeek in fp8 does not fit on the eight H100 that one link joins.
    claim = Claim(
        figure=4_000, whose="system", phase="served", model="deepseek-r1", precision="fp8",
        hardware="h100", concurrency=128, prompt=1024, output=1024,
    )  # fmt: skip
    made = audit(claim)
    assert made.verdict == "underspecified"
    assert made.missing[0] == "devices"


def test_figures_of_users_and_of_all_agree():
    user = changed(ON_H200, whose="user", phase="decode", figure=20.0, batch=128, concurrency=None)
    whole = changed(user, whose="system", figure=20.0 * 128)
    assert ordinary(only(user)).rate * 128 == pytest.approx(ordinary(only(whole)).rate)
    per_device = changed(whole, whose="device", devices=4, figure=10.0)
    assert ordinary(only(per_device)).rate * 4 == pytest.approx(
        ordinary(only(changed(per_device, whose="system"))).rate
    )


def test_tokens_of_prompts_count_where_the_figure_is_a_total():
    served, total = (ordinary(only(changed(ON_H200, phase=p))).rate for p in ("served", "total"))
    assert total == pytest.approx(2 * served)


def test_a_users_speed_tells_how_many_there_are():
    claim = changed(ON_H200, concurrency=None, user_speed=29.0)
    assert only(claim).concurrency == 100


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.9, "plausible"), (3.0, "implausible"), (36.0, "implausible")]
)
def test_eight_bits_give_twice_and_no_more(factor, verdict):
    claim = Claim(figure=factor, unit="x", technique="weights", precision="fp8",
                  baseline=Baseline(precision="bf16"))  # fmt: skip
    assert audit(claim).verdict == verdict


def test_a_starved_baseline_can_be_told_from_the_hardware():
    # In 16 bits one H200 holds the weights and next to nothing else.
    claim = Claim(figure=4.2, unit="x", technique="weights", precision="int4",
                  model="llama-3.1-70b", hardware="h200", devices=1,
                  baseline=Baseline(precision="bf16"))  # fmt: skip
    made = audit(claim)
    assert made.verdict == "plausible"
    assert audit(changed(claim, devices=None)).verdict == "implausible"
    assert "as many sequences as fit" in max(made.ratios, key=lambda one: one.factor).reading


def test_measured_gains_stand_beside_a_ratio_and_bound_nothing():
    made = audit(parse("36x higher throughput from 4-bit weights"))
    half, most = (one for one in made.ratios if one.measured)
    assert 1 < half.factor < most.factor
    # Four B200 hold DeepSeek-R1 in 8 bits and next to no K and V: a starved baseline.
    assert "deepseek-r1" in most.reading
    assert f"{most.factor:.3g} times" not in made.why[0]


def test_a_ratio_to_a_figure_is_a_figure():
    claim = changed(ON_H200, figure=10.0, unit="x", whose=None, baseline=Baseline(figure=2_900.0))
    assert audit(claim).verdict in ("implausible", "impossible")
    assert audit(claim).claim.figure == 29_000


def test_json_holds_what_is_promised_and_no_infinity():
    for text in (
        "50 tokens/s for a large hosted model",
        "36x higher throughput",
        CLAIMS[0]["text"],
    ):
        value = facts(audit(parse(text)))
        assert {"verdict", "missing", "required", "nearest"} <= set(value)
        assert all(math.isfinite(x) for x in _numbers(value))


BLANK = st.none()
ANY_CLAIM = st.fixed_dictionaries(
    {
        "figure": st.floats(1e-6, 1e12),
        "whose": st.sampled_from([None, "user", "device", "system"]),
        "phase": st.sampled_from([None, "decode", "prefill", "served", "total"]),
        "model": st.sampled_from(
            [None, "llama-3.1-8b", "deepseek-r1", "gpt-oss-20b", "qwen3-0.6b"]
        ),
        "precision": st.sampled_from([None, "bf16", "fp8", "int4", "mxfp4", "fp32"]),
        "hardware": st.sampled_from([None, "h100", "wse-3", "m4-pro", "gb200", "epyc-9654"]),
        "devices": BLANK | st.integers(1, 1000),
        "batch": BLANK | st.integers(1, 10**6),
        "concurrency": BLANK | st.integers(1, 10**6),
        "user_speed": BLANK | st.floats(0.01, 1e5),
        "prompt": BLANK | st.integers(1, 10**6),
        "output": BLANK | st.integers(1, 10**6),
        "speculation": BLANK | st.floats(1, 20),
    }
)


@settings(max_examples=150, deadline=None)
@given(ANY_CLAIM)
def test_any_claim_gets_a_verdict_and_plain_numbers(fields):
    made = audit(Claim(**fields))
    assert made.verdict in ("impossible", "implausible", "plausible", "underspecified")
    assert made.why
    assert all(math.isfinite(x) for x in _numbers(facts(made)))
    for one in made.judged:
        assert one.sure.rate >= one.ordinary.rate * (1 - 1e-9)


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [x for each in value for x in _numbers(each)]
    return [value] if isinstance(value, float) else []
