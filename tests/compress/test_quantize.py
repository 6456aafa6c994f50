"""A quantized checkpoint is what the engine multiplies, bit for bit: nothing is rounded twice."""

import logging
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.compress import forward
from penstock.compress import quantize as module
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.desk import Desk, Work
from penstock.compress.quality import log_probabilities
from penstock.compress.quantize import Quantize, floats, quantize
from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.native import library
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.whole import Whole
from penstock.engine.llm import LLM
from penstock.engine.options import EngineOptions

FORMS = {
    "int4": Quantize(bits=4, method="gptq", group=64),
    "int4 act-order": Quantize(bits=4, method="gptq", group=32, act_order=True),
    "int4 awq": Quantize(bits=4, method="awq", group=64),
    "int8": Quantize(bits=8, method="rtn"),
}
TORCH = EngineOptions(dtype="bf16", kernels="torch")


@pytest.fixture
def native():
    try:
        return library.library()
    except library.NotHere as error:
        pytest.skip(f"native kernels do not run here: {error}")


@pytest.fixture(scope="module")
def made(family, tmp_path_factory):
    """Quantized checkpoints by form and family: their directory and what they mean in fp32."""
    done = {}

    def make(form, name="llama"):
        if (form, name) not in done:
            folder = tmp_path_factory.mktemp("made")
            rows = torch.randint(0, 256, (4, 33), generator=torch.Generator().manual_seed(3))
            source = Checkpoint.read(family(name))
            result = quantize(source, FORMS[form], Desk(rows, Work(folder / "w", {}))).checkpoint
            result.write(folder / "x", {})
            meant = {
                name: tensor.float()
                for name, tensor in result.tensors.items()
                if not name.startswith("model.layers.")
            }
            for index in range(len(source.shape.layers)):
                own = floats(result.layer(index), FORMS[form].bits)
                meant |= {f"model.layers.{index}.{name}": tensor for name, tensor in own.items()}
            done[form, name] = folder / "x", source.shape, meant
        return done[form, name]

    return make


def said(llm, tokens):
    rows = torch.tensor([[*tokens, 0]])
    return next(log_probabilities(llm, rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_dequantized_the_engine_says_what_the_integers_mean(made, form, name):
    directory, shape, meant = made(form, name)
    tokens = list(range(30))
    with torch.no_grad():
        wanted = forward.forward(shape, meant, torch.tensor([tokens]))[0].log_softmax(-1)
    fp32 = LLM(str(directory), EngineOptions(dtype="fp32", kernels="torch"))
    torch.testing.assert_close(said(fp32, tokens), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_integer_kernels_say_what_their_slow_reference_says(native, made, form):
    directory, _, _ = made(form)
    tokens = list(range(30))
    ours = LLM(str(directory), EngineOptions(kernels="native"))
    assert ours.engine.facts.precision.startswith(f"int{FORMS[form].bits}")
    held = EngineOptions(dtype="bf16", kernels="torch", weights=f"int{FORMS[form].bits}")
    slow = LLM(str(directory), held)
    fast, reference = said(ours, tokens), said(slow, tokens)
    # Both quantize activations to int8; the reference rounds to bf16 between operations.
    assert float((fast.exp() - reference.exp()).abs().sum(-1).max()) < 0.1


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, 256)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("outputs", [64, 70])
def test_panels_are_the_ones_that_the_kernels_pack_themselves(native, bits, group, gated, outputs):
    """Weights that lie on the grid are packed to the same bytes as their integers."""
    from penstock.engine.kernels.native.linear import NativeLinear

    low, high = (-8, 8) if bits == 4 else (-127, 128)
    whole = torch.randint(low, high, (outputs, 256)).to(torch.int8)
    whole[:, ::group] = low  # the extreme: the scale is found again
    scale = torch.rand(outputs, 256 // group).mul(4).exp2().bfloat16().float()
    held = Whole(whole, scale, bits)
    form = f"int{bits}"
    shadow = torch.empty(outputs, 256, device="meta")
    taken = NativeLinear(PlainLinear(shadow, whole=held), form, gated=gated)
    assert torch.equal(taken._scale.count_nonzero(), torch.tensor(outputs * 256 // group))
    if not gated:
        assert torch.equal(taken.rows(torch.arange(outputs)), held.floats())
    if group in (128, 256):  # the group that the kernels take themselves
        packed = NativeLinear(PlainLinear(held.floats()), form, gated=gated)
        assert torch.equal(taken._data, packed._data)
        assert torch.equal(taken._scale, packed._scale)


def test_a_norm_before_integers_is_left_alone(native):
    from penstock.engine.kernels.native.linear import NativeLinear

    held = Whole(torch.randint(-8, 8, (64, 128)).to(torch.int8), torch.rand(64, 1), 4)
    norm = RMSNorm(torch.rand(128) + 0.5, 1e-6)
    shadow = torch.empty(64, 128, device="meta")
    x = torch.randn(3, 128)
    ours = NativeLinear(PlainLinear(shadow, norm=norm, whole=held), "int4").logits(x)
    wanted = norm(x) @ held.floats().T
    assert float((ours - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_where_no_kernel_multiplies_integers_it_is_said(made, caplog):
    directory, _, _ = made("int4")
    with caplog.at_level(logging.WARNING):
        llm = LLM(str(directory), TORCH)
    assert "int4 weights become bfloat16: kernels=torch was asked for" in caplog.text
    assert llm.engine.facts.precision == "bf16"


def test_other_integers_than_the_checkpoints_are_refused(made):
    directory, _, _ = made("int4")
    with pytest.raises(ValueError, match="weights=int8 cannot be made of this checkpoint's int4"):
        LLM(str(directory), EngineOptions(weights="int8"))


def test_it_is_not_compressed_again(made):
    directory, _, _ = made("int8")
    with pytest.raises(ValueError, match="holds int8 weights; compress the checkpoint that they"):
        Checkpoint.read(directory)


def test_a_group_that_divides_nothing_is_refused(llama, desk):
    with pytest.raises(
        ValueError, match=r"group=128 does not divide the 192 inputs of .*down_proj"
    ):
        quantize(llama, Quantize(bits=4), desk)


def test_an_interrupted_job_goes_on_where_it_was(llama, desk, tmp_path, monkeypatch):
    how = Quantize(bits=4, method="gptq", group=64)
    whole = quantize(llama, how, desk).checkpoint
    calls = []
    real = module._layer

    def two(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    again = replace(desk, work=Work(tmp_path / "again", {}))
    monkeypatch.setattr(module, "_layer", two)
    with pytest.raises(KeyboardInterrupt):
        quantize(llama, how, again)
    monkeypatch.setattr(module, "_layer", lambda *args: calls.append(1) or real(*args))
    resumed = quantize(llama, how, again).checkpoint
    assert len(calls) == 4
    assert resumed.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)


def test_parts_of_another_job_are_refused(tmp_path):
    Work(tmp_path / "w", {"bits": 4}).keep("one", {})
    with pytest.raises(ValueError, match="holds the finished parts of another compression"):
        Work(tmp_path / "w", {"bits": 8})


@pytest.mark.parametrize("form", FORMS)
def test_transformers_reads_the_same_weights(made, form):
    directory, shape, meant = made(form)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        wanted = forward.forward(shape, meant, tokens)
        torch.testing.assert_close(theirs(input_ids=tokens).logits, wanted, atol=1e-2, rtol=1e-2)


def test_beside_integers_a_checkpoint_of_fp32_is_served_in_bf16(native, made, tmp_path):
    """In fp32 the integer kernels would stand idle, and nobody asked for that."""
    import json
    import shutil

    shutil.copytree(made("int4")[0], tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    assert LLM(str(tmp_path / "x")).engine.facts.precision == "int4 weights, else bf16"
