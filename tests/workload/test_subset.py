"""Parts of a trace: rows keep what they share, sessions what is left of them."""

import numpy as np
import pytest

from penstock.workload.subset import subset, within
from penstock.workload.traces import Trace


def trace():
    return Trace(
        format="test",
        at_s=np.array([5.0, 6.0, 9.0, 11.0]),
        prompt_tokens=np.array([10, 20, 30, 40]),
        output_tokens=np.array([1, 2, 3, 4]),
        blocks=[((0, 1),), ((0, 2),), ((5, 8),), ((5, 9),)],
        block_tokens=10,
        think_s=[0.0, 1.0, 0.0, 2.0],
        sessions=[np.array([0, 1]), np.array([2, 3])],
    )


def test_rows_keep_what_they_share_and_their_order():
    found = subset(trace(), [3, 1, 2])
    assert found.prompt_tokens.tolist() == [40, 20, 30]
    assert found.at_s.tolist() == [5.0, 0.0, 3.0]
    assert found.blocks == [((5, 9),), ((0, 2),), ((5, 8),)]
    assert found.think_s == [2.0, 1.0, 0.0]
    assert [each.tolist() for each in found.sessions] == [[1], [2, 0]]


def test_a_session_of_which_nothing_is_left_is_gone():
    assert [each.tolist() for each in subset(trace(), [0, 1]).sessions] == [[0, 1]]
    with pytest.raises(ValueError, match="no request of the trace is left"):
        subset(trace(), [])


def test_what_does_not_fit_is_left_out_and_counted():
    found, note = within(trace(), 33)
    assert found.prompt_tokens.tolist() == [10, 20, 30]
    assert note == "1 of 4 requests are longer than the context of 33 tokens and left out"
    same, nothing = within(trace(), 44)
    assert len(same) == 4
    assert nothing is None
    with pytest.raises(ValueError, match="no request of the trace fits a context of 10 tokens"):
        within(trace(), 10)
