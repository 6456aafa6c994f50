"""What prompts share, counted with real tokenizers."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from penstock import models as our_models
from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import parse_lengths
from penstock.workload.pieces import Pieces
from penstock.workload.prompts import CutPrompts, GivenPrompts, held_out_stdlib
from penstock.workload.shapes import Prefix, Rag
from penstock.workload.source import Source
from penstock.workload.traces import Trace


def embedded():
    return Tokenizer.from_file(str(our_models.path("embedded") / "tokenizer.json"))


def by_bytes():
    """A token a byte, and one before every text, as Llama's tokenizers add."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(["<s>", *letters])}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    return built


TOKENIZERS = {"embedded": embedded, "bytes": by_bytes}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def cut(tokenizer=None, salt="s"):
    return held_out_stdlib(salt=salt, seed=1, tokenizer=tokenizer)


def source(shape, tokenizer=None, **more):
    return Source(
        prompts=cut(tokenizer),
        input_len=parse_lengths("20-60"),
        output_len=parse_lengths("5-9"),
        seed=1,
        shape=shape,
        **more,
    )


def shared_tokens(tokenizer, one, other):
    pairs = zip(tokenizer.encode(one).ids, tokenizer.encode(other).ids, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), 0)


@pytest.mark.parametrize("tokens", [1, 2, 3, 17, 64, 512])
def test_pieces_are_cut_to_the_token(tokenizer, tokens):
    pieces = Pieces(cut(tokenizer))
    for i in range(5):
        row = [(f"a{i}", tokens), (f"b{i}", tokens), (f"c{i}", tokens + 3)]
        assert len(tokenizer.encode(pieces.join(row)).ids) == 3 * tokens + 3


def test_without_a_tokenizer_pieces_are_as_long_as_estimated():
    assert len(Pieces(cut()).join([("a", 100), ("b", 28)])) == 512


def test_a_piece_is_its_key_and_another_run_has_other_pieces():
    pieces, again, fresh = Pieces(cut()), Pieces(cut()), Pieces(cut(salt="t"))
    text = pieces.join([("a", 50)])
    assert text == again.join([("a", 50)])
    assert text != fresh.join([("a", 50)])
    assert len({pieces.join([(f"k{i}", 50)])[:14] for i in range(2000)}) == 2000


def test_groups_share_their_prefix_and_nothing_more(tokenizer):
    asks = list(source(Prefix(3, 100), tokenizer).closed(4, 30).asks)
    for ask in asks:
        assert len(tokenizer.encode(ask.content).ids) == ask.prompt_tokens
    lengths = [
        shared_tokens(tokenizer, a.content, b.content) for i, a in enumerate(asks) for b in asks[:i]
    ]
    alike = [n for n in lengths if n >= 100]
    apart = [n for n in lengths if n < 100]
    # What parts is a mark of twelve hexadecimal digits after a line break.
    assert alike
    assert max(alike) < 100 + 16
    assert apart
    assert max(apart) < 16


def test_groups_are_asked_evenly():
    asks = source(Prefix(4, 40)).closed(4, 2000).asks
    counts = Counter(ask.content[:13] for ask in asks)
    assert len(counts) == 4
    assert all(abs(count - 500) < 5 * np.sqrt(500) for count in counts.values())


def test_documents_follow_zipf_and_come_once_a_prompt():
    shape = Rag(1, 20, pool=50, exponent=1.2)
    counts = Counter(ask.content[:14] for ask in source(shape).closed(1, 4000).asks)
    weights = np.arange(1, 51) ** -1.2
    expected = 4000 * weights / weights.sum()
    seen = np.array([count for _, count in counts.most_common(5)])
    assert np.all(np.abs(seen - expected[:5]) < 5 * np.sqrt(expected[:5]))

    ask = source(Rag(8, 64, pool=8)).closed(1, 1).asks[0]
    marks = [line.split(" ", 1)[0] for line in ask.content.split("\n")]
    assert len({m for m in marks if len(m) == 12 and set(m) <= set("0123456789abcdef")}) == 9


def test_rag_prompts_are_as_long_as_said(tokenizer):
    for ask in source(Rag(3, 64), tokenizer).closed(1, 10).asks:
        assert len(tokenizer.encode(ask.content).ids) == ask.prompt_tokens
        assert 3 * 64 + 20 <= ask.prompt_tokens <= 3 * 64 + 60


def test_blocks_of_a_trace_become_prompts_that_share_them(tokenizer):
    trace = Trace(
        format="test",
        at_s=np.arange(3.0),
        prompt_tokens=np.array([1100, 1300, 700]),
        output_tokens=np.array([1, 1, 1]),
        blocks=[((0, 3),), ((0, 2), (7, 8)), ((9, 11),)],
        block_tokens=512,
    )
    run = source(Prefix(1, 1), tokenizer)  # a replay's prompts are the trace's
    one, other, alien = (ask.content for ask in run.replay(trace).asks)
    assert [len(tokenizer.encode(text).ids) for text in (one, other, alien)] == [1100, 1300, 700]
    assert 1024 <= shared_tokens(tokenizer, one, other) < 1024 + 16
    assert shared_tokens(tokenizer, one, alien) < 16
    again = run.replay(trace).asks[0].content
    assert shared_tokens(tokenizer, one, again) < 16  # the next point has prompts of its own


def test_samples_go_with_every_ask():
    assert {ask.n for ask in source(Prefix(2, 9), n=4).closed(1, 5).asks} == {4}


def test_what_is_shared_must_fit_the_context():
    with pytest.raises(ValueError, match="share 5,120 tokens leave no room"):
        source(Rag(10, 512), embedded(), context=2048).closed(1, 5)
    asks = source(Rag(3, 512), embedded(), context=1580).closed(1, 20).asks
    assert max(ask.prompt_tokens + ask.output_tokens for ask in asks) <= 1580


def test_given_prompts_cannot_be_put_together(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "x"}))
    given = source(Prefix(1, 10))
    given.prompts = GivenPrompts(file)
    with pytest.raises(ValueError, match="not cut"):
        given.closed(1, 1).asks[0]


def test_a_million_asks_cost_what_their_numbers_cost():
    """Three numbers an ask, and no prompt until it is looked at."""
    import tracemalloc

    run = Source(
        prompts=CutPrompts("some text\n" * 99, source="text", salt="s", seed=1),
        input_len=parse_lengths("10-20"),
        output_len=parse_lengths("5-9"),
        seed=1,
    )
    tracemalloc.start()
    plan = run.open(Poisson(100.0), count=1_000_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan.asks) == 1_000_000
    assert kept < 40e6
    assert plan.asks[999_999] == plan.asks[-1]
    some = [plan.asks[i].at_s for i in range(0, 1_000_000, 100_000)]
    assert all(a < b for a, b in pairwise(some))
