"""Step time: each term against hand arithmetic, and what must hold of any of them."""

import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.sheet import device
from penstock.predict.stepfile import Named, Parameters, StepFile, load_draws, load_steptime, write
from penstock.predict.steptime import (
    Costs,
    Efficiencies,
    MeasuredStepTime,
    Overheads,
    StepLoad,
    chunk_pairs,
)

LLAMA, MOE = architecture("llama-3.1-8b"), architecture("qwen3-30b-a3b")
H100 = device("h100")
FULL = Efficiencies(bandwidth=1, kv=1, compute={"bf16": 1}, attention=1, link=1)
NOTHING = Overheads(layer_s=0, collective_s=0, sequence_s=0, step_s=0, request_s=0)


def bare(**shape):
    """The sheet's own rates, without any overhead."""
    return PhysicalStepTime(Deployment(LLAMA, H100, **shape), FULL, NOTHING)


def test_a_lone_decode_reads_weights_and_context():
    step, context = bare(), 4000
    weights = (LLAMA.parameters - LLAMA.vocab * LLAMA.hidden) * 2 / 3.35e12
    kv = context * 2 * 8 * 128 * 32 * 2 / 3.35e12
    found = step.terms(StepLoad(0, 0, 1, context, 1))
    assert found["weights"] == pytest.approx(weights, rel=0.01)
    assert found["kv"] == pytest.approx(kv, rel=0.01)
    assert step.seconds(StepLoad(0, 0, 1, context, 1)) == pytest.approx(weights + kv, rel=0.01)


def test_a_long_prompt_computes():
    step, tokens = bare(), 8192
    load = StepLoad(tokens, chunk_pairs(0, tokens), 0, 0, 1)
    matrices = LLAMA.parameters - 2 * LLAMA.vocab * LLAMA.hidden
    products = 2 * matrices * tokens / H100.flops["bf16"]
    attention = 4 * 32 * 32 * 128 * tokens * (tokens + 1) / 2 / H100.flops["bf16"]
    assert step.terms(load)["weights"] == pytest.approx(products, rel=0.02)
    assert step.terms(load)["attention"] == pytest.approx(attention, rel=0.02)


def test_efficiencies_divide_and_overheads_add():
    load = StepLoad(0, 0, 10, 40_000, 10)
    half = PhysicalStepTime(Deployment(LLAMA, H100), Efficiencies(
        bandwidth=0.5, kv=0.5, compute={"bf16": 0.5}, attention=0.5), NOTHING)  # fmt: skip
    assert half.seconds(load) == pytest.approx(2 * bare().seconds(load))
    extra = Overheads(layer_s=1e-5, sequence_s=1e-4, step_s=1e-3, request_s=9)
    slow = PhysicalStepTime(Deployment(LLAMA, H100), FULL, extra)
    assert slow.seconds(load) - bare().seconds(load) == pytest.approx(32e-5 + 10e-4 + 1e-3)
    assert slow.request_s == 9
    twice = PhysicalStepTime(Deployment(LLAMA, H100), FULL, extra, scale=2.0)
    assert twice.seconds(load) == pytest.approx(2 * slow.seconds(load))


def test_devices_share_the_work_and_pay_for_it():
    load = StepLoad(0, 0, 32, 64_000, 32)
    alone, four = bare(), bare(tp=4)
    assert four.terms(load)["weights"] == pytest.approx(alone.terms(load)["weights"] / 4)
    assert four.terms(load)["kv"] == pytest.approx(alone.terms(load)["kv"] / 4, rel=0.01)
    moved = 2 * 32 * 32 * LLAMA.hidden * 2 * 2 * 3 / 4  # layers, tokens, ring
    assert four.terms(load)["communication"] == pytest.approx(moved / 450e9)
    assert alone.terms(load)["communication"] == 0
    # K and V of 8 heads cannot be cut in 16.
    sixteen = PhysicalStepTime(
        Deployment(LLAMA, device("gb200"), tp=16), FULL, NOTHING
    )  # fmt: skip
    eight = PhysicalStepTime(Deployment(LLAMA, device("gb200"), tp=8), FULL, NOTHING)
    assert sixteen.terms(load)["kv"] == pytest.approx(eight.terms(load)["kv"], rel=0.01)


def test_stages_and_groups_take_their_share_of_sequences():
    load = StepLoad(0, 0, 32, 64_000, 32)
    half = StepLoad(0, 0, 16, 32_000, 16)
    for shape in ({"pp": 2}, {"dp": 2}):
        found = bare(**shape).terms(load)
        del found["communication"]
        expected = bare().terms(half)
        del expected["communication"]
        assert found == pytest.approx(expected)


def test_experts_are_read_as_tokens_touch_them():
    step = PhysicalStepTime(Deployment(MOE, H100), FULL, NOTHING)
    found = [step.terms(StepLoad(0, 0, n, n, n))["experts"] for n in (1, 2, 64, 4096)]
    one = 48 * 3 * 2048 * 768 * 8 * 2 / 3.35e12  # layers, matrices, hidden, width, active
    assert found[0] == pytest.approx(one, rel=0.01)
    assert 1.8 * found[0] < found[1] < 2 * found[0]
    assert found[2] < 16.1 * found[0] + 1e-3
    spread = PhysicalStepTime(Deployment(MOE, H100, tp=2, dp=2, ep=4), FULL, NOTHING)
    assert spread.terms(StepLoad(0, 0, 64, 64, 64))["experts"] == pytest.approx(
        found[2] / 4, rel=0.01
    )


@given(
    st.integers(0, 8192), st.floats(1, 8192), st.integers(0, 512), st.floats(1, 30_000),
)  # fmt: skip
def test_more_work_never_takes_less_time(prefill, seen, decodes, context):
    step = PhysicalStepTime(Deployment(architecture("gpt-oss-20b"), H100, "mxfp4"))
    load = StepLoad(prefill, prefill * seen, decodes, decodes * context, decodes)
    more = [
        StepLoad(prefill + 1, prefill * seen + seen, decodes, decodes * context, decodes),
        StepLoad(prefill, prefill * seen, decodes + 1, (decodes + 1) * context, decodes + 1),
    ]
    assert all(step.seconds(each) >= step.seconds(load) * (1 - 1e-9) for each in more)


def test_the_pool_is_what_memory_leaves():
    deployment = Deployment(LLAMA, H100)
    room = H100.memory_bytes * 0.9 - 1.2e9 - LLAMA.weight_bytes("bf16")
    assert deployment.kv_tokens() == pytest.approx(room / (2 * 8 * 128 * 32 * 2), rel=0.01)
    two = Deployment(LLAMA, H100, tp=2)
    assert two.kv_tokens() > 2 * deployment.kv_tokens()


def test_the_pool_is_what_a_server_had():
    # vLLM 0.19 told 41,408 tokens (casys-kaist/LLMServingSim). "24 GB" would make 33,000.
    assert Deployment(LLAMA, device("rtx-4090")).kv_tokens() == pytest.approx(41_408, rel=0.02)


def test_what_cannot_be_is_refused_with_numbers():
    with pytest.raises(ValueError, match=r"puts 1\d\d\.\d GB of weights on each of 1 .* take more"):
        Deployment(architecture("llama-3.1-70b"), H100).kv_tokens()
    with pytest.raises(ValueError, match="tp=3 does not divide the 32 attention heads"):
        Deployment(LLAMA, H100, tp=3)
    with pytest.raises(ValueError, match="ep=2, but llama-3.1-8b has no experts"):
        Deployment(LLAMA, H100, tp=2, ep=2)
    with pytest.raises(ValueError, match="kv='fp3' is no format"):
        Deployment(LLAMA, H100, kv="fp3")
    with pytest.raises(ValueError, match=r"kv=1\.2 must lie in \(0, 1\]"):
        Efficiencies(kv=1.2)
    with pytest.raises(ValueError, match=r"step_s=-1.* must not be negative"):
        Overheads(step_s=-1)


def test_a_file_gives_back_what_was_written(tmp_path: Path):
    named = Named(model="meta-llama/Llama-3.1-8B", device="h100", tp=2)
    file = StepFile(
        deployment=named,
        pages=2588,
        page_size=16,
        estimate=Parameters(efficiencies=Efficiencies(bandwidth=0.83, compute={"bf16": 0.6})),
        draws=[Parameters(overheads=Overheads(step_s=2e-3), scale=1.1), Parameters()],
        fit={"source": 'a "run"', "spans": 12},
    )
    path = tmp_path / "model.toml"
    write(file, path)
    load = StepLoad(512, 512 * 256, 32, 32_000, 33)
    expected = PhysicalStepTime(named.deployment(), file.estimate.efficiencies)
    assert load_steptime(path).seconds(load) == pytest.approx(expected.seconds(load))
    first, second = load_draws(path)
    default = PhysicalStepTime(named.deployment())
    assert second.seconds(load) == pytest.approx(default.seconds(load))
    assert first.seconds(load) == pytest.approx(1.1 * (default.seconds(load) + 1e-3))

    write(StepFile(estimate=Parameters(costs=Costs(read=0.01, kv=1e-8))), path)
    assert load_steptime(path).seconds(StepLoad(0, 0, 1, 1000, 1)) == pytest.approx(0.01001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format = 9", "has format 9"),
        ("[estimate]\nbandwith = 1", "unknown field `bandwith`"),
        ("oops", "is no step-time file"),
        ("", "needs \\[deployment\\]"),
        ('[deployment]\nmodel = "llama-3.1-8b"\ndevice = "h1000"', "hardware 'h1000' is unknown"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_steptime(path)


def test_a_step_costs_microseconds_to_predict():
    step = PhysicalStepTime(Deployment(LLAMA, H100))
    load = StepLoad(512, 512 * 256, 32, 32_000, 33)
    best = min(timeit.repeat(lambda: step.seconds(load), number=1000, repeat=5)) / 1000
    assert best < 30e-6  # 3 on a quiet machine
    assert MeasuredStepTime(Costs(read=1)).seconds(load) == 1
