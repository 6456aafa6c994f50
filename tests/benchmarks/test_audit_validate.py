"""Published measurements, audited as claims: a sample of what benchmarks/audit_validate.py does."""

import json
import os
from pathlib import Path

import pytest
from benchmarks.audit_validate import claims, factors, multiplied, validate

from penstock.plan.audit.verdict import audit

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[3] / "shared" / "data"))
RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "audit_validate.json"


@pytest.fixture(scope="module")
def sample():
    if not (DATA / "results").is_dir():
        pytest.skip(f"no published tables under {DATA}/results; set PENSTOCK_DATA")
    return {name: every[::40] for name, every in claims(DATA / "results").items()}


@pytest.mark.parametrize("table", ["serving", "offline", "llama.cpp"])
def test_no_published_row_is_impossible_and_few_times_as_much_is_not_believed(sample, table):
    found = validate(sample[table])
    assert found["impossible"] == 0
    assert found["factor"]["median"] <= 4
    assert found["verdicts"].get("implausible", 0) <= 0.02 * found["claims"]


def test_factors_are_where_the_verdict_changes(sample):
    for claim in sample["offline"]:
        implausible, impossible = factors(claim)
        assert audit(multiplied(claim, implausible * 0.999)).verdict == "plausible"
        assert audit(multiplied(claim, impossible * 0.999)).verdict == "implausible"


def test_the_committed_result_keeps_the_promise():
    result = json.loads(RESULT.read_text())
    for one in (result["overall"], *result["by_table"].values()):
        assert one["impossible"] == 0
        assert one["factor"]["median"] <= 4
    # Judged without any measured point of its own model, hardly a row is doubted.
    alone = result["overall"]["without_its_model"]
    assert alone.get("impossible", 0) == 0
    assert alone["implausible"] < 0.05 * result["overall"]["claims"]
