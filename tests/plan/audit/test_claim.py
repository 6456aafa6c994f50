"""Claims: from free text, from files, from runs; and what is wrong with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.plan.audit import claim as claims
from penstock.plan.audit import claim_run
from penstock.plan.audit.claim import rate
from penstock.plan.audit.claim_text import parse
from penstock.record.run import save
from tests.record.simulated import closed_point, run_of


def told(text):
    """The fields that a text tells, without the text itself and what is always there."""
    found = parse(text)
    fields = {f: getattr(found, f) for f in found.__struct_fields__ if f != "text"}
    return {f: v for f, v in fields.items() if v not in (None, False, "")}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (
            "2,100 tokens/s for Llama 70B in fp16 on one wafer-scale engine",
            {"figure": 2100, "precision": "fp16", "hardware": "wse-3", "devices": 1},
        ),
        (
            "10k tok/s on 8xH100 at 1k/1k, concurrency 256",
            {"figure": 10_000, "hardware": "h100", "devices": 8, "prompt": 1024, "output": 1024,
             "concurrency": 256},
        ),
        ("GPT-class model at 50 tok/s", {"figure": 50, "other_model": "gpt-class"}),
        ("36x higher throughput from 4-bit weights", {"figure": 36, "unit": "x", "whose": "ratio",
                                                      "technique": "weights", "precision": "int4"}),
        ("up to 30x with disaggregation", {"figure": 30, "up_to": True,
                                           "technique": "disaggregation"}),
        ("Llama 3.3 70B: 5000 tps/GPU", {"model": "llama-3.3-70b", "whose": "device"}),
        ("meta-llama/Llama-3.1-8B-Instruct at 150 tokens per second per user",
         {"model": "llama-3.1-8b", "whose": "user", "figure": 150}),
        ("Mixtral 8x7B: 3x the speed", {"model": "mixtral-8x7b", "figure": 3, "unit": "x"}),
        ("671B model (37B active) at 20 tok/s", {"parameters": 671e9, "active_parameters": 37e9}),
        ("Foo-235B-A22B at 20 tok/s", {"parameters": 235e9, "active_parameters": 22e9}),
        ("20 ms per token at batch 64", {"figure": 20, "unit": "ms/token", "batch": 64,
                                         "whose": "user"}),
        ("TPOT of 5.5 ms", {"figure": 5.5, "unit": "ms/token"}),
        ("0.2 s to first token for an 8k prompt", {"figure": 200, "unit": "ms to first token",
                                                   "prompt": 8192}),
        ("3 requests/s, 2,000 input tokens and 500 output tokens",
         {"figure": 3, "unit": "requests/s", "prompt": 2000, "output": 500}),
        ("9,000 tokens/min", {"figure": 150}),
        ("5 million tokens per second on GB200 NVL72", {"figure": 5e6, "hardware": "gb200",
                                                        "devices": 72}),
        ("DGX H100: 900 tok/s", {"hardware": "h100", "devices": 8}),
        ("1,000 prompt tokens/s", {"figure": 1000, "phase": "prefill"}),
        ("800 tokens/s in total with an fp8 KV cache", {"kv_precision": "fp8", "whose": "system"}),
        ("90 tok/s with EAGLE", {"speculative": True}),
        ("90 tok/s without speculative decoding", {"speculation": 1}),
        ("90 tok/s, 3.2 tokens per step accepted", {"speculation": 3.2}),
        ("10,000 tok/s/GPU at 50 tok/s/user", {"figure": 10_000, "whose": "device",
                                               "user_speed": 50}),
        ("500 tokens/s on TPU v5e", {"other_hardware": "tpu v5e"}),
        ("2x faster with 2-bit weights", {"bits": 2, "technique": "weights"}),
        ("Claude at 80 tokens/s", {"other_model": "claude"}),
        ("45 tok/s: qwen3 32b fp8 single H100", {"model": "qwen3-32b", "precision": "fp8",
                                                 "devices": 1}),
        ("latency of 5ms per token", {"figure": 5, "unit": "ms/token"}),
        ("70B on 8 chips: 50tps", {"parameters": 70e9, "devices": 8, "figure": 50}),
        ("40% faster with int8", {"figure": pytest.approx(1.4), "precision": "int8"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_text_is_understood(text, fields):
    found = told(text)
    assert {f: found.get(f) for f in fields} == fields


def test_a_baseline_takes_its_own_words_and_no_more():
    found = parse("3x faster than fp16 with int4 weights on one H100 for Llama 3.1 8B")
    assert (found.baseline.precision, found.baseline.hardware) == ("fp16", None)
    assert (found.precision, found.hardware, found.model) == ("int4", "h100", "llama-3.1-8b")
    faster = parse("B200 is 2x faster than 2xH100")
    assert (faster.technique, faster.hardware) == ("hardware", "b200")
    assert (faster.baseline.hardware, faster.baseline.devices) == ("h100", 2)
    assert parse("twice the throughput over 1,000 tokens/s").baseline.figure == 1000


def test_counts_of_devices_and_parts_of_names_are_no_ratio():
    assert parse("8x H100: 50 tokens/s").unit == "tokens/s"
    assert parse("Mixtral 8x22B at 50 tokens/s").unit == "tokens/s"


@given(st.text(max_size=80) | st.lists(st.sampled_from(
    ["3x", "10 tok/s", "than", "H100", "8x", "70B", "fp8", "at", "1k/1k", "per user", "batch 0",
     "over", "ttft", "5 ms", "up to", "0 tokens/s", "[red]", "on", "conc 99999999999999999999"]
)).map(" ".join))  # fmt: skip
def test_no_text_does_worse_than_be_refused(text):
    try:
        found = parse(text)
    except ValueError:
        return
    assert found.figure > 0


def test_units_become_tokens_per_second():
    assert rate(parse("20 ms per token")) == 50
    assert rate(parse("3 requests/s, 100 in and 500 out")) == 1500
    assert rate(parse("TTFT of 100 ms for a 1000-token prompt")) == 10_000


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "figure is missing"),
        ({"figure": "fast"}, "Expected `float`, got `str` - at `$.figure`"),
        ({"figure": -5}, "> 0.0 - at `$.figure`"),
        ({"figure": 5, "modell": "x"}, "modell is no field of a claim; did you mean model?"),
        ({"figure": 5, "model": "llama-99"}, "model 'llama-99' is unknown"),
        ({"figure": 5, "hardware": "h1000"}, "did you mean 'h100'?"),
        ({"figure": 5, "precision": "fp12"}, "precision='fp12' is unknown; take fp32, bf16"),
        ({"figure": 5, "devices": 0}, ">= 1 - at `$.devices`"),
        ({"figure": 5, "unit": "x", "whose": "user"}, "unit='x' with whose='user'"),
        ({"figure": 5, "whose": "ratio"}, "unit='tokens/s' with whose='ratio'"),
        ({"figure": 5, "unit": "ms to first token"}, "needs prompt"),
        ({"figure": 5, "unit": "requests/s"}, "needs output"),
        ({"figure": 5, "parameters": 7e9, "active_parameters": 8e9}, "is more than parameters"),
        ({"figure": 5, "speculative": True, "speculation": 1}, "contradict each other"),
        ({"figure": 5, "bits": 2, "precision": "fp8"}, "give one of them"),
        ({"figure": 5, "unit": "x", "baseline": {"precisoin": "fp16"}}, "did you mean precision?"),
        ({"figure": 5, "unit": "x", "baseline": {"hardware": "abc"}}, "baseline.hardware 'abc'"),
    ],
)
def test_errors_name_field_and_remedy(fields, says):
    with pytest.raises(ValueError, match="^claim.toml") as caught:
        claims.parse(fields, "claim.toml")
    assert says in str(caught.value)


def test_toml_and_json_say_the_same(tmp_path):
    toml, json = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text('figure = 5\nmodel = "llama-3.1-8b"\n[baseline]\nfigure = 2\n')
    json.write_text('{"figure": 5, "model": "llama-3.1-8b", "baseline": {"figure": 2}}')
    assert claims.read(toml) == claims.read(json)
    toml.write_text("figure = ")
    with pytest.raises(ValueError, match="is no TOML"):
        claims.read(toml)
    with pytest.raises(ValueError, match="cannot be read"):
        claims.read(tmp_path / "absent.toml")


def test_hardware_of_ones_own_is_known_by_its_name(tmp_path):
    sheet = tmp_path / "mine.toml"
    sheet.write_text("[my-npu]\nmemory_bytes = 32e9\nread_bytes_per_s = 2e11\n")
    found = parse("30 tokens/s for Llama 3.1 8B in int4 on one my-npu", sheet)
    assert (found.hardware, found.devices) == ("my-npu", 1)
    with pytest.raises(ValueError, match="unknown"):
        claims.parse({"figure": 30, "hardware": "my-npu"}, "c.toml")


def test_a_run_is_a_claim_of_its_best_point(tmp_path):
    run = run_of(closed_point(1, seconds=20))
    run.points[0].conditions |= {"model": "llama-3.1-8b", "hardware": "H100", "precision": "bf16"}
    save(run, tmp_path / "run")
    found = claim_run.read(tmp_path / "run")
    assert (found.model, found.hardware, found.devices) == ("llama-3.1-8b", "h100", 1)
    assert (found.whose, found.phase, found.concurrency) == ("system", "served", 8)
    assert found.prompt == 100
    assert 200 < found.figure < 500
    with pytest.raises(ValueError, match="is not a run"):
        claim_run.read(tmp_path)
