"""Model shapes: their parameters are the published ones, their bytes and operations by hand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.models.shapes import SHAPES
from penstock.predict.architecture import (
    Architecture,
    Dense,
    Gqa,
    Linear,
    Mla,
    Moe,
    architecture,
    from_config,
    shapes,
)
from penstock.predict.hf import Config


# As publishers state them, in 10^9. Of a mixture's active ones some count the embedding.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-2-7b", 6.74),
        ("llama-2-13b", 13.02),
        ("llama-2-70b", 68.98),
        ("llama-3.2-1b", 1.24),
        ("llama-3.2-3b", 3.21),
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.55),
        ("llama-3.1-405b", 405.9),
        ("qwen2.5-0.5b", 0.494),
        ("qwen2.5-7b", 7.61),
        ("qwen2.5-32b", 32.76),
        ("qwen2.5-72b", 72.7),
        ("qwen3-0.6b", 0.596),
        ("qwen3-8b", 8.19),
        ("qwen3-32b", 32.76),
        ("mistral-7b", 7.25),
        ("mistral-small-24b", 23.57),
        ("mistral-large-123b", 122.6),
    ],
)
def test_dense_models_have_their_published_parameters(name, total):
    assert architecture(name).parameters / 1e9 == pytest.approx(total, rel=0.005)


@pytest.mark.parametrize(
    ("name", "total", "active", "embedding_counts"),
    [
        ("mixtral-8x7b", 46.7, 12.9, True),
        ("mixtral-8x22b", 140.6, 39.1, True),
        ("qwen3-30b-a3b", 30.5, 3.3, True),
        ("qwen3-235b-a22b", 235, 22, True),
        ("qwen3.5-397b-a17b", 397, 17, True),
        ("qwen3-next-80b-a3b", 80, 3.9, True),
        ("deepseek-v2-lite", 15.7, 2.4, False),
        ("deepseek-v3", 671, 37, False),
        ("kimi-k2", 1026, 32, False),
        ("glm-5", 744, 40, False),
        ("gpt-oss-20b", 20.9, 3.6, False),
        ("gpt-oss-120b", 116.8, 5.1, False),
        ("minimax-m2", 229, 10, False),
    ],
)
def test_mixtures_of_experts_have_theirs(name, total, active, embedding_counts):
    model = architecture(name)
    counted = model.active_parameters + embedding_counts * model.vocab * model.hidden
    assert model.parameters / 1e9 == pytest.approx(total, rel=0.005)
    assert counted / 1e9 == pytest.approx(active, rel=0.05)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_checkpoints_are_made_of_count_the_same(name):
    # There every tensor counts; here norms within heads are left out.
    assert architecture(name).parameters == pytest.approx(SHAPES[name].parameters, rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "name", "weights"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b", "bf16"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1", "fp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3.1", "fp4"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", "fp8"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", "bf16"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", "bf16"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5", "int4"),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "qwen2.5-72b", "int4"),
    ],
)
def test_hub_ids_find_their_shape_and_format(asked, name, weights):
    found = architecture(asked)
    assert (found.name, found.weights) == (name, weights)


@pytest.mark.parametrize("name", ["gpt-5", "meta-llama/Llama-9-8B", "deepseek-r1-distill-qwen-1b"])
def test_a_model_nobody_bundled_is_refused_not_guessed(name):
    with pytest.raises(ValueError, match=r"is unknown.*Known are .*config\.json"):
        architecture(name)


def test_every_bundled_name_can_be_read():
    assert all(architecture(name).parameters > 5e7 for name in shapes())


@pytest.mark.parametrize(
    ("name", "kb"),  # 2 x layers x KV heads x head size x 2 bytes, by hand
    [
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),
        ("llama-3.1-8b", 2 * 32 * 8 * 128 * 2),
        ("llama-3.1-70b", 2 * 80 * 8 * 128 * 2),
        ("deepseek-v3", 61 * (512 + 64) * 2),
        ("gpt-oss-120b", 2 * 18 * 8 * 64 * 2),  # the other 18 layers have windows
        ("qwen3.5-397b-a17b", 2 * 15 * 2 * 256 * 2),  # the other 45 are linear
    ],
)
def test_kv_bytes_of_a_token(name, kb):
    model = architecture(name)
    assert model.kv_bytes_per_token("bf16") == kb
    assert model.kv_bytes_per_token("fp8") == kb / 2
    far = model.kv_bytes(100_000, "bf16"), model.kv_bytes(100_001, "bf16")
    assert far[1] - far[0] == pytest.approx(kb)


def test_windows_are_respected():
    model = architecture("gpt-oss-120b")
    within, beyond = model.kv_bytes(128, "bf16"), model.kv_bytes(1128, "bf16")
    assert within == 2 * 36 * 8 * 64 * 2 * 128
    assert beyond == within + 1000 * model.kv_bytes_per_token("bf16")
    assert model.attended_flops(1128) < model.attention_flops(1128)


def test_linear_attention_keeps_a_state_of_fixed_size_in_fp32():
    model = architecture("qwen3.5-397b-a17b")
    assert model.kv_bytes(0, "fp8") == 45 * 64 * 128 * 128 * 4


def test_sparse_attention_keeps_more_than_it_reads():
    model = architecture("deepseek-v3.2")
    assert model.kv_read_bytes(2048, "bf16") == model.kv_bytes(2048, "bf16")
    kept, read = model.kv_bytes(100_000, "bf16"), model.kv_read_bytes(100_000, "bf16")
    assert read == 61 * (576 * 2048 + 128 * 100_000) * 2 < kept / 4


def test_kv_heads_are_cut_until_there_is_one_a_device():
    model = architecture("llama-3.1-70b")
    whole = model.kv_bytes(1000, "bf16")
    assert [whole / model.kv_bytes(1000, "bf16", tp) for tp in (1, 4, 8, 16)] == [1, 4, 8, 8]
    latent = architecture("deepseek-v3")
    assert latent.kv_bytes(1000, "fp8", 8) == latent.kv_bytes(1000, "fp8")


def test_weight_bytes_are_those_of_published_checkpoints():
    gb = {
        ("llama-3.1-8b", "bf16"): 16.06,
        ("deepseek-v3", "fp8"): 672.9,  # 688.6 with its multi-token prediction layer
        ("gpt-oss-120b", "mxfp4"): 65.2,  # 60.8 GiB
        ("gpt-oss-20b", "mxfp4"): 13.76,  # 12.8 GiB
        ("kimi-k2.5", "int4"): 555,
    }
    for (name, format_), size in gb.items():
        found = architecture(name).weight_bytes(format_) / 1e9
        assert found == pytest.approx(size, rel=0.02), name


def test_a_step_reads_the_experts_its_tokens_touch():
    model = architecture("qwen3-30b-a3b")
    one, many = model.read_bytes(1, "bf16"), model.read_bytes(10_000, "bf16")
    head = model.vocab * model.hidden
    assert one == pytest.approx(2 * (model.active_parameters + model.hidden), rel=1e-6)
    assert many == pytest.approx(2 * (model.parameters - head + 10_000 * model.hidden), rel=1e-6)
    # 128 experts of which each token takes 8: 8 tokens touch 128 (1 - (120/128)^8) of them.
    expert = 3 * 2048 * 768 * 48 * 2
    touched = (model.read_bytes(8, "bf16") - one) / expert
    assert touched == pytest.approx(128 * (1 - (120 / 128) ** 8) - 8, rel=0.01)


def test_operations_by_hand():
    model = architecture("llama-3.1-8b")
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14_336
    head = 4096 * 128_256
    assert model.matmul_flops(10, 3) == 2 * (10 * 32 * layer + 3 * head)
    assert model.attention_flops(1000) == 4 * 32 * 32 * 128 * 1000
    assert model.allreduce_bytes(10) == 2 * 32 * 10 * 4096 * 2


def test_latent_attention_costs_more_operations_absorbed_than_unpacked():
    model = architecture("deepseek-v3")
    assert model.attention_flops(1) == 61 * 2 * 128 * (512 + 64 + 512)
    assert model.attention_flops(1, expanded=True) == 61 * 2 * 128 * (128 + 64 + 128)


def test_an_unknown_format_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"weights='fp7'.*take fp32, bf16, fp16, fp8"):
        architecture("llama-3.1-8b").weight_bytes("fp7")
    with pytest.raises(ValueError, match="kv='q8'"):
        architecture("llama-3.1-8b").kv_bytes(1, "q8")


def config(**changes):
    return shapes()["llama-3.1-70b"] | changes


@pytest.fixture
def folder(tmp_path):
    def write(content):
        (tmp_path / "config.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
        return tmp_path

    return write


def test_a_config_is_read_from_its_folder_or_its_path(folder):
    where = folder(config())
    found = architecture(str(where))
    assert isinstance(found, Architecture)
    assert found == architecture(str(where / "config.json"))
    assert found.layers == architecture("llama-3.1-70b").layers


def test_the_text_part_of_a_model_that_sees_is_read(folder):
    where = folder({"model_type": "kimi_k25", "text_config": dict(shapes()["kimi-k2"])})
    assert architecture(str(where)).parameters == architecture("kimi-k2").parameters


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(shapes())),
    field=st.sampled_from(sorted(Config.__struct_fields__)),
    value=st.none()
    | st.booleans()
    | st.integers(-10, 10**10)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers() | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
def test_whatever_a_config_holds_it_is_read_or_refused(name, field, value):
    try:
        model = from_config({**shapes()[name], field: value}, name)
    except ValueError:
        return
    assert model.parameters > 0
    assert model.kv_bytes(1000, "bf16", 8) >= 0
    assert model.read_bytes(10, "fp8") > 0


@pytest.mark.parametrize(
    ("said", "weights"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
    ],
)
def test_the_format_of_the_weights_is_what_the_config_says(folder, said, weights):
    assert architecture(str(folder(config(quantization_config=said)))).weights == weights


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            config(model_type="mamba"),
            r"model_type='mamba' is no family known here; known are llama",
        ),
        (config(hidden_size=None), r"hidden_size=None must be a whole number"),
        (config(num_hidden_layers=-3), r"Expected `int` >= 1 - at `num_hidden_layers`"),
        (config(hidden_size="8192"), r"Expected `int .*got `str` - at `hidden_size`"),
        (config(vocab_size=0), r"vocab_size=0 must be a whole number of at least 1"),
        (config(layer_types=["full_attention"]), r"layer_types names 1 layers of .*=80"),
        (config(layer_types=["odd"] * 80), r"layer_types: 'odd' is none of full_attention"),
        (config(num_experts=4, num_experts_per_tok=8), r"num_experts_per_tok=8 is more than the 4"),
        (config(num_key_value_heads=7), r"num_attention_heads=64 must be a multiple of .*=7"),
        (config(quantization_config={"quant_method": "odd"}), r"quantization_config: .*'odd'"),
        ("{", r"config\.json is no config\.json"),
        ("[]", r"config\.json is no config\.json"),
    ],
)
def test_a_config_that_cannot_be_used_is_told_its_field(folder, content, says):
    with pytest.raises(ValueError, match=says):
        architecture(str(folder(content)))


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        architecture(str(tmp_path))


NARROW = [
    {"num_attention_heads": 8 * (1 + index % 2), "num_key_value_heads": 1, "intermediate_size": 64}
    for index in range(80)
]


def test_layers_pruned_unevenly_are_each_counted_as_they_are(folder):
    found = architecture(str(folder(config(head_dim=128, penstock_layers=NARROW))))
    wide, narrow = sorted(found.layers, key=lambda one: -one.attention.heads)
    assert (wide.attention.heads, narrow.attention.heads) == (16, 8)
    assert (wide.count, narrow.count) == (40, 40)
    assert {one.attention.head_dim for one in found.layers} == {128}
    assert {one.ffn for one in found.layers} == {Dense(64)}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"head_dim": 128, "penstock_layers": NARROW[1:]}, r"penstock_layers names 79 layers of"),
        ({"head_dim": None, "penstock_layers": NARROW}, r"head_dim=None must be a whole number"),
        (
            {"penstock_layers": [{"intermediate_size": 64}] * 80},
            r"missing required field `num_attention_heads` - at `penstock_layers\[0\]`",
        ),
        (
            {"model_type": "llama_swiftkv", "num_key_value_layers": 40},
            r"stop behind 40 layers \(SwiftKV\).*Take the model that it was made from",
        ),
    ],
)
def test_compressed_shapes_that_cannot_be_reckoned_with_are_refused(folder, more, says):
    with pytest.raises(ValueError, match=says):
        architecture(str(folder(config(**more))))


def test_layers_of_one_kind_are_counted_together():
    dense, sparse = architecture("deepseek-v3").layers
    assert (dense.count, sparse.count) == (3, 58)
    assert isinstance(sparse.attention, Mla)
    assert isinstance(sparse.ffn, Moe)
    windowed, full = architecture("gpt-oss-20b").layers
    assert isinstance(windowed.attention, Gqa)
    assert (windowed.attention.window, windowed.count, full.count) == (128, 12, 12)
    assert isinstance(architecture("qwen3-next-80b-a3b").layers[0].attention, Linear)
