"""The C kernels against PyTorch's operations, on shapes that fit no register."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from penstock.engine.kernels.attention import attend_plainly
from penstock.engine.kernels.linear import PlainLinear
from penstock.engine.kernels.native import library
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.plain import STORAGES as PLAIN
from penstock.engine.kernels.quantized import QuantizedLinear
from penstock.engine.kv import KVLayer
from penstock.engine.model.batch import PrefillSpan, StepBatch
from penstock.engine.model.config import LayerConfig, ModelConfig, RopeConfig
from penstock.engine.model.layer import Layer
from penstock.engine.sampling import draw_plainly

try:
    library.library()
except library.NotHere as error:
    pytest.skip(f"native kernels do not run here: {error}", allow_module_level=True)

from penstock.engine.kernels.native.kernels import STORAGES, NativeKernels
from penstock.engine.kernels.native.linear import NativeLinear
from penstock.engine.kernels.native.step import NativeStep

BITS = {"int8": 8, "int4": 4}
# Of queries and weights, beside that of K and V.
LOSS = {"plain": 4 * 2**-8, "int8": 0.03, "int4": 0.03}
# Of stored K and V: a number may be rounded the other way, in int4 one of those of a spread head.
STORED = {"plain": 2 * 2**-8, "int8": 1.5 / 127, "int4": 0.04}
BF16 = 2**-8  # half a step of bf16, relative


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    library.library().penstock_threads(request.param)
    yield request.param
    library.library().penstock_threads(1)


def matrices(form, outputs, inputs, *, biased=False, gated=False, normed=True):
    """The same weights for the C kernels, and as fp32 that say what they mean."""
    torch.manual_seed(outputs + inputs)
    norm = RMSNorm(1 + 0.1 * torch.randn(inputs), 1e-6) if normed else None
    weight = torch.randn(outputs, inputs).to(torch.bfloat16)
    bias = torch.randn(outputs).to(torch.bfloat16) if biased else None
    plain = PlainLinear(weight, bias, norm)
    native = NativeLinear(plain, form, gated=gated)
    if form in BITS:
        return native, QuantizedLinear(PlainLinear(weight.float(), bias, norm), BITS[form])
    return native, PlainLinear(weight.float(), None if bias is None else bias.float(), norm)


def close(ours, theirs, tolerance, *, summed=0):
    """Within `tolerance` of the largest value, or of what `summed` products come to."""
    assert ours.shape == theirs.shape
    worst = (ours.float() - theirs.float()).abs().max()
    assert worst <= tolerance * max(float(theirs.abs().max()), summed**0.5)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 128), (70, 96), (100, 260), (7, 5), (1, 33)])
@pytest.mark.parametrize("rows", [1, 2, 12, 13, 50])
def test_products_equal_pytorchs(threads, form, outputs, inputs, rows):
    native, plain = matrices(form, outputs, inputs, biased=rows % 2 == 1)
    x = torch.randn(rows, inputs)
    tolerance = 2 * BF16  # a row may be rounded the other way at a tie
    close(native.logits(x), plain.logits(x), tolerance, summed=inputs)
    close(native(x), plain(x), 2 * BF16, summed=inputs)
    native, plain = matrices(form, outputs, inputs, biased=rows % 2 == 1, normed=False)
    h = torch.randn(rows, inputs).to(torch.bfloat16)
    ours, theirs = torch.ones(rows, outputs), torch.ones(rows, outputs)
    native.add(ours, h)
    plain.add(theirs, h.float())
    close(ours, theirs, tolerance, summed=inputs)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("half", [5, 16, 40])
def test_gated_products_equal_pytorchs(form, half):
    native, plain = matrices(form, 2 * half, 130, biased=True, gated=True)
    x = torch.randn(9, 130)
    close(native.gated(x), plain.gated(x), 4 * BF16)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_rows_are_the_weights(form):
    native, plain = matrices(form, 77, 140)
    which = torch.tensor([76, 0, 31, 32, 76])
    close(native.rows(which), plain.rows(which), 1e-6)


def test_zeros_and_a_row_of_zeros():
    weight = torch.randn(40, 64).to(torch.bfloat16)
    weight[3] = 0
    x = torch.zeros(2, 40)
    NativeLinear(PlainLinear(weight), "int8").add(x, torch.zeros(2, 64).to(torch.bfloat16))
    assert not x.any()


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_a_row_does_not_depend_on_its_company(form):
    native, _ = matrices(form, 100, 260)
    x = torch.randn(64, 260)
    together = native.logits(x)
    for rows in (1, 5, 13, 40):
        assert torch.equal(native.logits(x[:rows]), together[:rows])


@pytest.mark.parametrize("kv", STORAGES)
@pytest.mark.parametrize("head_dim", [32, 48, 128])
def test_pages_keep_what_is_written(kv, head_dim):
    layer, dtype, cpu = KVLayer(3, head_dim), torch.bfloat16, torch.device("cpu")
    tiled, reference = (of[kv](layer, 9, 32, dtype, cpu) for of in (STORAGES, PLAIN))
    slots = torch.randperm(9 * 32)[:200]
    rows = torch.randn(200, 6, head_dim).to(dtype)
    for pages in (tiled, reference):
        pages.write(slots, rows)
        pages.copy(torch.tensor([1, 2]), torch.tensor([2, 7]))
    order = torch.tensor([3, 7, 2, 0])
    assert torch.equal(tiled.gather(order), reference.gather(order))
    filled = 8 if kv == "int4" and head_dim == 48 else 0  # bytes, up to 64 numbers
    assert tiled.bytes_per_page == reference.bytes_per_page + 2 * 3 * 32 * filled


class Company:
    """Sequences in pages of random K and V, and a batch of their newest rows."""

    def __init__(
        self, contexts, chunks, *, shared, page_size, heads, kv_heads, head_dim, seed, kv="plain"
    ):
        torch.manual_seed(seed)
        rows = len(contexts) + sum(count for count, _ in chunks)
        ends = list(contexts) + [context for _, context in chunks]
        needed = shared // page_size + sum(-(-end // page_size) for end in ends)
        needed = max(1, needed)
        free = torch.randperm(needed).tolist()
        common = [free.pop() for _ in range(shared // page_size)]
        tables = []
        for end in ends:
            own = -(-end // page_size)
            tables.append((common + [free.pop() for _ in range(own)])[:own])
        decodes = len(contexts)
        width = max([len(t) for t in tables[:decodes]], default=0)
        decode_tables = torch.zeros(decodes, width, dtype=torch.int64)
        for row, table in enumerate(tables[:decodes]):
            decode_tables[row, : len(table)] = torch.tensor(table)
        spans, start = [], decodes
        for (count, context), table in zip(chunks, tables[decodes:], strict=True):
            spans.append(PrefillSpan(start, start + count, torch.tensor(table), context))
            start += count
        self.batch = StepBatch(
            tokens=torch.zeros(rows, dtype=torch.int64),
            positions=torch.zeros(rows, dtype=torch.int64),
            slots=torch.full((rows,), needed * page_size),  # a page that nobody reads
            decodes=decodes,
            decode_tables=decode_tables,
            decode_contexts=torch.tensor(contexts, dtype=torch.int64),
            max_decode_context=max(contexts, default=0),
            prefills=spans,
            logit_rows=torch.empty(0, dtype=torch.int64),
        )
        self.pages = STORAGES[kv](
            KVLayer(kv_heads, head_dim),
            needed + 1,
            page_size,
            torch.bfloat16,
            torch.device("cpu"),
        )
        slots = torch.arange(needed * page_size)
        self.pages.write(slots, torch.randn(len(slots), 2 * kv_heads, head_dim).to(torch.bfloat16))
        self.y = torch.randn(rows, (heads + 2 * kv_heads) * head_dim).to(torch.bfloat16)


def layer_of(heads, kv_heads, head_dim, window):
    shape = LayerConfig(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn_size=16, window=window
    )
    return Layer(shape, _config(shape), torch.bfloat16, "cpu")


def _config(shape):
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=8,
        hidden_size=16,
        layers=(shape,),
        norm_eps=1e-6,
        max_positions=4096,
        rope=RopeConfig(),
        tied_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(),
        checkpoint_dtype=None,
    )


def attended(company, layer, *, cascade=True):
    """What the C kernels say, with positions of 0, so that nothing is rotated."""
    frequencies = {layer.shape.head_dim: torch.ones(layer.shape.head_dim // 2)}
    step = NativeStep(company.batch, company.pages.page_size, frequencies, cascade=cascade)
    return step.attend(layer, company.y, company.pages)


def expected(company, layer):
    shape = layer.shape
    q = company.y[:, : shape.heads * shape.head_dim].view(-1, shape.heads, shape.head_dim)
    return attend_plainly(q, company.pages, company.batch, shape.window)


@settings(max_examples=60, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 150), max_size=9),
    chunks=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 90)).map(lambda c: (c[0], c[0] + c[1])),
        max_size=3,
    ),
    shared=st.sampled_from([0, 16, 64, 96]),
    page_size=st.sampled_from([16, 32]),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 1), (10, 1), (16, 1)]),
    head_dim=st.sampled_from([16, 48, 64, 128]),
    window=st.sampled_from([None, 1, 17, 64]),
    kv=st.sampled_from(list(STORAGES)),
    seed=st.integers(0, 999),
)
def test_attention_equals_its_definition(
    contexts, chunks, shared, page_size, heads, head_dim, window, kv, seed
):
    if not contexts and not chunks:
        return
    company = Company(
        contexts,
        chunks,
        shared=shared,
        page_size=page_size,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim,
        seed=seed,
        kv=kv,
    )
    layer = layer_of(*heads, head_dim, window)
    ours = attended(company, layer)
    assert not ours.isnan().any()
    close(ours, expected(company, layer), LOSS[kv])
    # Reading a shared prefix once for all changes nothing, not even a bit.
    assert torch.equal(ours, attended(company, layer, cascade=False))


def test_shared_prefix_is_read_once(threads):
    company = Company(
        [200] * 30 + [64],
        [],
        shared=128,
        page_size=16,
        heads=4,
        kv_heads=2,
        head_dim=64,
        seed=1,
    )
    layer = layer_of(4, 2, 64, None)
    step = NativeStep(company.batch, 16, {64: torch.ones(32)})
    _, before, count = step._plan(2, 0)
    assert before == 8  # 31 rows that share 64 slots, four to a block
    assert count - before == 31
    close(attended(company, layer), expected(company, layer), 4 * BF16)


@pytest.mark.parametrize("kv", STORAGES)
@pytest.mark.parametrize("head_dim", [32, 80])
def test_rows_are_rotated_normed_and_stored(kv, head_dim):
    heads, kv_heads, rows = 4, 2, 20
    torch.manual_seed(3)
    company = Company(
        [], [(rows, rows)], shared=0, page_size=16, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, seed=3, kv=kv,
    )  # fmt: skip
    table = company.batch.prefills[0].table
    company.batch.positions = torch.arange(rows) + 5
    company.batch.slots = table[torch.arange(rows) // 16] * 16 + torch.arange(rows) % 16
    layer = layer_of(heads, kv_heads, head_dim, None)
    layer.q_norm = RMSNorm(1 + 0.1 * torch.randn(head_dim), 1e-6)
    layer.k_norm = RMSNorm(1 + 0.1 * torch.randn(head_dim), 1e-6)
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    step = NativeStep(company.batch, 16, {head_dim: frequencies})
    step.attend(layer, company.y, company.pages)
    stored = company.pages.gather(table).flatten(2, 3)[:, :, :rows]
    k, v = company.y.view(rows, -1, head_dim)[:, heads:].split(kv_heads, dim=1)
    k = F.rms_norm(k.float(), (head_dim,), layer.k_norm.weight, 1e-6)
    turns = company.batch.positions[:, None] * frequencies
    cos, sin = turns.cos()[:, None], turns.sin()[:, None]
    first, second = k.chunk(2, dim=-1)
    k = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    pages = PLAIN[kv](KVLayer(kv_heads, head_dim), 2, 16, torch.bfloat16, torch.device("cpu"))
    pages.write(torch.arange(rows), torch.cat((k, v), dim=1).to(torch.bfloat16))
    kept = pages.gather(torch.arange(2)).flatten(2, 3)[:, :, :rows]
    close(stored[0], kept[0], STORED[kv])
    close(stored[1], kept[1], 0 if kv == "plain" else STORED[kv])


@pytest.mark.parametrize("vocabulary", [5, 16, 1000, 152_000])
def test_draws_are_pytorchs(threads, vocabulary):
    torch.manual_seed(vocabulary)
    logits = 3 * torch.randn(40, vocabulary)
    logits[:, vocabulary // 2 :] = float("-inf")
    logits[0] = 1.0  # of equal ones the first
    temperature = np.where(np.arange(40) % 3 == 0, 0, 0.7).astype(np.float32)
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 40)
    ours = NativeKernels("bf16").draw(logits, temperature, keys)
    assert ours.tolist() == draw_plainly(logits, temperature, keys).tolist()


def test_noise_is_gumbels():
    """Draws among equal logits show all of the noise's order."""
    keys = np.arange(20_000)
    drawn = NativeKernels("bf16").draw(torch.zeros(20_000, 7), np.ones(20_000, np.float32), keys)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-4
