"""Simulated hit rates against the engine's: the promise of docs/prefix_cache.md."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.cache_validate import PIECES, smaller, validate, worst

from penstock.workload.traces import Trace
from tests.plan.paths import TRACES

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "cache_validate.json"
POINTS = 2.0


def test_a_smaller_trace_shares_what_the_large_one_did():
    trace = Trace(
        format="test",
        at_s=np.array([5.0, 6.0, 9.0]),
        prompt_tokens=np.array([1030, 512, 2000]),
        output_tokens=np.array([320, 3, 64]),
        blocks=[((0, 3),), ((0, 1),), ((0, 2), (7, 9))],
        block_tokens=512,
    )
    found = smaller(trace, [0, 2], 32)
    assert found.block_tokens == 16
    assert found.at_s.tolist() == [0.0, 4.0]
    assert found.prompt_tokens.tolist() == [32, 62]
    assert found.output_tokens.tolist() == [10, 2]
    assert found.blocks == [((0, 3),), ((0, 2), (7, 9))]


def test_the_committed_result_keeps_the_promise():
    result = json.loads(RESULT.read_text())
    for name in PIECES:
        found = result[name]
        assert worst(found) == result["worst_points"][name] <= POINTS
        for way in ("one at a time", "four at once", "as recorded"):
            rates = [row["measured"] for row in found[way]["sizes"]]
            assert len(rates) >= 4
            # Sizes are such that memory makes a difference: else agreeing would be easy.
            assert max(rates) - min(rates) > 0.1
        assert all(row["points"] == 0 for row in found["one at a time"]["sizes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECES)
def test_the_engine_and_the_simulator_find_the_same_hits(name):
    pytest.importorskip("torch")
    file, piece = PIECES[name]
    path = TRACES / file
    if not path.exists():
        pytest.skip(f"{path} is not there; set PENSTOCK_DATA")
    # Not the pool that holds one request at most: there a busy machine turns who meets whom.
    assert worst(validate(piece(path), (4096, 8192))) <= POINTS
