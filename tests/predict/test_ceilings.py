"""Ceilings by phase and batch, against arithmetic done by hand."""

import msgspec
import pytest

from penstock.predict.architecture import architecture
from penstock.predict.ceilings import (
    Ceiling,
    alone,
    batches,
    decode_load,
    mean_seconds,
    prefill_load,
    served,
    verify_load,
)
from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.sheet import device

LLAMA, H100 = architecture("llama-3.1-8b"), device("h100")
ONE = Deployment(LLAMA, H100)
HEAD = LLAMA.vocab * LLAMA.hidden


def test_one_decoding_sequence_reads_all_weights_and_its_own_k_and_v():
    step = alone(decode_load(1, 1000))
    weights = 2 * (LLAMA.parameters - HEAD)  # all but the embedding, of which a row is read
    found = Ceiling(ONE).seconds(step)
    assert found == pytest.approx((weights + 1000 * 131_072) / 3.35e12, rel=1e-4)
    assert Ceiling(ONE).binds(step) == "weights"


def test_many_sequences_wait_for_k_and_v():
    step = alone(decode_load(360, 1152))
    assert Ceiling(ONE).parts(step)["KV"] == pytest.approx(360 * 1152 * 131_072 / 3.35e12)
    assert Ceiling(ONE).binds(step) == "KV"


def test_a_prompt_waits_for_arithmetic():
    step = alone(prefill_load(1, 2000))
    flops = 2 * (LLAMA.active_parameters - HEAD) * 2000 + 2 * HEAD
    flops += LLAMA.attention_flops(2000 * 2001 / 2)
    assert Ceiling(ONE).seconds(step) == pytest.approx(flops / 989e12, rel=1e-3)
    assert Ceiling(ONE).binds(step) == "compute"


def test_served_sequences_bring_their_prompts():
    (without, plain), (share, step) = served(10, prompt=1000, output=200)
    assert (without, share) == (0.95, 0.05)  # 10 of 200 tokens end a request each step
    assert plain == decode_load(10, 1100)
    assert (step.prefill_tokens, step.prefill_pairs) == (1000, 1000 * 1001 / 2)
    (without, _), (share, step) = served(400, prompt=1000, output=200)
    assert (without, share, step.prefill_tokens) == (0, 1, 2000)


def test_a_prompt_computed_whole_touches_each_expert_once():
    moe = Deployment(architecture("gpt-oss-120b"), device("b200"), "mxfp4")
    parts = Ceiling(moe).parts
    alone_, with_prompts = parts(alone(decode_load(1, 1152))), parts(served(1, 1024, 256))
    all_experts = parts(alone(prefill_load(1, 1024)))["weights"]
    assert with_prompts["weights"] - alone_["weights"] < all_experts / 256


def test_checking_drafts_reads_k_and_v_once():
    plain, drafted = (Ceiling(ONE).parts(alone(verify_load(8, 1000, k))) for k in (0, 4))
    assert drafted["KV"] == plain["KV"]
    assert drafted["compute"] == pytest.approx(5 * plain["compute"], rel=1e-3)


@pytest.mark.parametrize("context", [16, 100])
def test_at_the_crossover_and_not_before_memory_no_longer_binds(context):
    ceiling = Ceiling(ONE)
    count = ceiling.crossover(context)
    assert ceiling.binds(alone(decode_load(count, context))) == "compute"
    assert ceiling.binds(alone(decode_load(count - 1, context))) in ("weights", "KV")


def test_with_long_contexts_there_is_no_crossover():
    # A sequence's KV at 10,000 tokens: 1.3 GB to read in 390 us, 17 Gflop to do in 17.
    assert Ceiling(ONE).crossover(10_000) is None


def test_prompts_stop_waiting_for_weights_at_the_ratio_of_the_rates():
    # 2 operations per parameter and token, 2 bytes per parameter: about P / W tokens.
    assert Ceiling(ONE).prefill_crossover() == pytest.approx(989e12 / 3.35e12, rel=0.1)


def test_links_bind_where_they_are_slow():
    slow = Deployment(architecture("llama-3.1-70b"), device("l40s"), "fp8", "fp8", tp=8)
    assert Ceiling(slow).binds(alone(prefill_load(1, 4000))) == "link"


@pytest.mark.parametrize(
    ("model", "name", "weights", "tp"),
    [
        ("llama-3.1-8b", "h100", "bf16", 1),
        ("llama-3.1-70b", "h200", "fp8", 4),
        ("deepseek-r1", "b200", "fp4", 8),
        ("gpt-oss-120b", "mi300x", "mxfp4", 1),
    ],
)
@pytest.mark.parametrize("batch", [1, 16, 256])
def test_no_step_time_of_physical_efficiencies_beats_the_ceiling(model, name, weights, tp, batch):
    placed = Deployment(architecture(model), device(name), weights, tp=tp)
    steps = alone(decode_load(batch, 2000)), alone(prefill_load(1, 10 * batch))
    for mix in (*steps, served(batch, 900, 90)):
        assert mean_seconds(PhysicalStepTime(placed), mix) > Ceiling(placed).seconds(mix)


def test_a_rate_nobody_published_cannot_bind_and_is_named():
    wafers = Deployment(LLAMA, device("wse-3"), tp=8)
    ceiling = Ceiling(wafers)
    assert ceiling.binds(alone(prefill_load(1, 100_000))) == "weights"
    assert "no rate of operations is published" in ceiling.gaps[0]
    assert "network_bytes_per_s" in ceiling.gaps[1]
    assert not Ceiling(ONE).gaps


@pytest.mark.parametrize("factor", [1.3, 4])
def test_ceilings_scale_with_the_rate_that_binds_and_no_other(factor):
    def scaled(field, value):
        sheet = msgspec.structs.replace(H100, **{field: value})
        return Ceiling(msgspec.structs.replace(ONE, device=sheet)).seconds(step)

    step = alone(decode_load(1, 100))
    before = Ceiling(ONE).seconds(step)
    assert scaled("read_bytes_per_s", 3.35e12 * factor) == pytest.approx(before / factor)
    assert scaled("flops", {"bf16": 989e12 * factor}) == before
    assert scaled("memory_bytes", 84.94e9 * factor) == before


def test_batches_double_and_end_at_the_largest():
    assert list(batches(1)) == [1]
    assert list(batches(8)) == [1, 2, 4, 8]
    assert list(batches(11)) == [1, 2, 4, 8, 11]
