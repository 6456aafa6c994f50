import numpy as np
import pytest

from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import parse_lengths
from penstock.workload.plan import deal
from penstock.workload.prompts import CutPrompts, GivenPrompts
from penstock.workload.shapes import Prefix
from penstock.workload.source import Source
from penstock.workload.traces import Trace


def source(context=None, seed=1):
    return Source(
        prompts=CutPrompts("some text\n" * 99, source="text", salt="s", seed=seed),
        input_len=parse_lengths("10-20"),
        output_len=parse_lengths("5-9"),
        seed=seed,
        context=context,
    )


def drawn(seed):
    return list(source(seed=seed).open(Poisson(3.0), count=20).asks)


def trace(*rows):
    at_s, prompt, output = zip(*rows, strict=True)
    return Trace(
        format="test",
        at_s=np.array(at_s),
        prompt_tokens=np.array(prompt),
        output_tokens=np.array(output),
    )


def test_points_of_a_run_share_no_prompt():
    one = source()
    asks = [*one.closed(4, 50).asks, *one.open(Poisson(3.0), count=50).asks]
    assert len({ask.content for ask in asks}) == 100
    assert len({ask.id for ask in asks}) == 100


def test_only_what_shares_by_design_is_said_to_share(tmp_path):
    def shares(**given):
        made = source()
        for name, value in given.items():
            setattr(made, name, value)
        return [made.closed(1, 2).shares_prefixes, deal(made.closed(1, 2), 1)[0].shares_prefixes]

    given = tmp_path / "prompts.jsonl"
    given.write_text('{"prompt": "a"}\n')
    assert shares() == [False, False]
    assert shares(n=2) == [True, True]
    assert shares(shape=Prefix(groups=1, tokens=4)) == [True, True]
    assert shares(prompts=GivenPrompts(given)) == [True, True]
    assert not source().replay(trace((0.0, 12, 5))).shares_prefixes
    shared = trace((0.0, 12, 5))
    shared.blocks, shared.block_tokens = [[(0, 1)]], 16
    assert source().replay(shared).shares_prefixes


def test_the_plan_is_a_function_of_the_seed():
    assert drawn(1) == drawn(1)
    assert drawn(2) != drawn(1)


def test_closed_loop_asks_have_no_time_and_a_warm_up_of_one_a_slot():
    plan = source().closed(4, 50)
    assert {ask.at_s for ask in plan.asks} == {None}
    assert plan.warmup == 4


def test_a_replay_is_as_recorded_only_faster():
    plan = source().replay(trace((0.0, 12, 5), (10.0, 30, 7)), speed=20)
    assert [(a.at_s, a.prompt_tokens, a.output_tokens) for a in plan.asks] == [
        (0.0, 12, 5),
        (0.5, 30, 7),
    ]
    assert plan.load.rate == pytest.approx(4.0)
    assert plan.notes == []


def test_lengths_beyond_the_context_are_clipped_and_counted():
    plan = source(context=20).replay(trace((0.0, 8, 5), (1.0, 300, 7)))
    # Lengths are estimates here, so a quarter of the context is kept free.
    assert plan.asks[1].prompt_tokens == 8
    assert "1 of 2 prompts" in plan.notes[0]
    assert "a quarter of its 20 is kept free" in plan.notes[0]
    assert plan.conditions["prompt_tokens_asked"] == "of the trace, clipped"
