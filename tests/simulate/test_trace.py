"""A production trace over eight replicas: quick, and every request ends well."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from benchmarks.simulate_speed import production

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TRACE = DATA / "traces" / "mooncake_conversation.jsonl"


@pytest.mark.skipif(not TRACE.exists(), reason=f"{TRACE} is not there; set PENSTOCK_DATA")
def test_an_hour_of_production_takes_seconds() -> None:
    began = time.process_time()
    found = production(TRACE, 512)
    assert time.process_time() - began < 10
    assert found["finished"] == found["requests"] == 12_031
    # The trace's own share, with caches that never forget and one replica, is 0.366.
    assert 0.15 < found["cached_share"] < 0.366
