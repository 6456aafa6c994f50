"""Traces by page: the hits of the trace's own blocks, with fewer ids."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.simulate import Fleet, Group, plan_of, simulate
from penstock.simulate.pages import by_page
from penstock.workload.traces import Trace
from tests.simulate.worlds import Linear

BLOCK = 4


@st.composite
def traces(draw):
    """Prompts that grow out of each other, as conversations do."""
    paths, unused = [()], 1
    for _ in range(draw(st.integers(1, 25))):
        start = draw(st.sampled_from(paths))
        more = draw(st.integers(1, 12))
        kept = start[: draw(st.integers(0, len(start)))]
        paths.append((*kept, *range(unused, unused + more)))
        unused += more
    paths = paths[1:]
    own = [draw(st.integers(0, BLOCK - 1)) for _ in paths]
    return Trace(
        format="drawn",
        at_s=np.cumsum([draw(st.sampled_from([0.0, 0.01, 0.5])) for _ in paths]),
        prompt_tokens=np.array(
            [BLOCK * len(path) + rest for path, rest in zip(paths, own, strict=True)]
        ),
        output_tokens=np.array([draw(st.integers(1, 9)) for _ in paths]),
        blocks=[tuple((id_, id_ + 1) for id_ in path) for path in paths],
        block_tokens=BLOCK,
    )


def hits(trace, page_tokens, pages):
    group = Group(
        kv_tokens=pages * page_tokens,
        page_tokens=page_tokens,
        policy={"preset": "penstock", "max_running": 4, "max_step_tokens": 40},
    )
    result = simulate(Fleet(replicas=(group,)), plan_of(trace), steps=(Linear(),))
    assert result.finished.all()
    ids = result.table.column("request_id").to_pylist()
    return dict(zip(ids, result.column("cached_tokens").tolist(), strict=True))


@given(traces(), st.sampled_from([2, 4, 8, 16]), st.integers(0, 20))
def test_the_same_hits_request_by_request(trace, page_tokens, spare):
    longest = int((trace.prompt_tokens + trace.output_tokens).max())
    pages = -(-longest // page_tokens) + spare
    assert hits(by_page(trace, page_tokens)[0], page_tokens, pages) == hits(
        trace, page_tokens, pages
    )


@given(traces(), st.sampled_from([2, 4, 8, 16]))
def test_so_many_pages_forget_nothing(trace, page_tokens):
    paged, pages = by_page(trace, page_tokens)
    assert hits(paged, page_tokens, pages) == hits(paged, page_tokens, 10 * pages)


def test_what_cannot_be_paged_is_said():
    trace = Trace(
        format="Azure",
        at_s=np.zeros(1),
        prompt_tokens=np.ones(1, dtype=int),
        output_tokens=np.ones(1, dtype=int),
    )
    with pytest.raises(ValueError, match=r"Azure\) does not say which prompts begin alike"):
        by_page(trace, 16)
    shared = msgspec.structs.replace(trace, blocks=[((0, 2),)], block_tokens=64)
    with pytest.raises(ValueError, match="page_tokens=48 neither divides .* 64 tokens"):
        by_page(shared, 48)
