"""What a plan says of its own error is what was measured."""

import numpy as np
import pytest
from benchmarks.measured_points import measured, rows

from benchmarks import predict_validate
from penstock.plan.basis import ERRORS
from tests.plan.paths import DATA

POINTS = DATA / "results" / "serving_measured_h100_b200.csv"


@pytest.fixture(scope="module")
def ratios():
    """Measured over predicted time per output token, by kind."""
    if not POINTS.exists():
        pytest.skip(f"{POINTS} is not here")
    found = {kind: [] for kind in ERRORS}
    for line in rows(POINTS):
        try:
            row = measured(line)
            predicted = predict_validate.predict(row)
        except ValueError:
            continue
        kind = "dense models" if predict_validate.is_dense(row) else "mixtures of experts"
        if row.mode == "disagg":  # too few to leave some out
            kind = "fleets with prompts apart"
        elif predict_validate.guides(row):
            continue
        found[kind].append(row.tpot_s / predicted.tpot_s)
    return found


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_those_of_the_measured_points(ratios, kind):
    off = np.array(ratios[kind])
    assert len(off) > 50
    median, low, high = ERRORS[kind]
    assert np.median(np.abs(off - 1)) == pytest.approx(median, abs=0.05)
    assert np.quantile(off, [0.05, 0.95]) == pytest.approx([low, high], rel=0.2)
    assert np.mean((off >= low) & (off <= high)) == pytest.approx(0.9, abs=0.05)
