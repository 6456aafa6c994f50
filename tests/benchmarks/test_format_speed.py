"""The benchmark of formats, made small: every cell is there, resumed runs add rounds."""

import json
import sys

import pytest
from benchmarks.peers.ceiling import Rates

from benchmarks import format_speed


@pytest.fixture
def small(monkeypatch, tmp_path):
    for name, value in {
        "ROWS": (1, 4),
        "KV_ROWS": (1, 2),
        "CONTEXTS": (32, 256),
        "PROMPT": 48,
        "LEAST_S": 0.0005,
        "measured": lambda threads: Rates(1e10, {"bf16": 1e11, "int8": 2e11}),
    }.items():
        monkeypatch.setattr(format_speed, name, value)
    out = tmp_path / "speed.json"

    def run(*more):
        words = ["format_speed", "--model", "embedded", "--threads", "1", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [*words, *more])
        format_speed.main()
        return json.loads(out.read_text())

    return run


def test_every_cell_has_its_times_and_its_limit(small):
    result = small("--rounds", "1")
    found = result["found"]
    assert set(found["weights"]) == {"1", "4"}
    assert (
        set(found["kv"])
        == set(found["attention"])
        == {f"{rows} x {context}" for rows in (1, 2) for context in (32, 256)}
    )
    assert set(found["prompt"]) == {"weights", "kv"}
    for part in found.values():
        for kinds in part.values():
            assert set(kinds) == set(format_speed.FORMATS)
            assert kinds["bf16"]["times_bf16"]["median"] == 1.0
    for at, kinds in found["kv"].items():
        for kind, one in kinds.items():
            assert 0 < found["attention"][at][kind]["ms"]["median"] < one["ms"]["median"]
    sizes = result["conditions"]["kv_bytes_per_token"]
    for kind, one in found["attention"]["2 x 256"].items():
        assert one["limit_ms"] == pytest.approx(1e3 * 512 * sizes[kind] / 1e10, abs=1e-3)
    assert sizes["bf16"] > sizes["int8"] > sizes["int4"]
    # Forty-eight tokens through seven million weights are products, not bytes.
    assert found["prompt"]["weights"]["bf16"]["binds"] == "arithmetic"
    assert found["weights"]["1"]["bf16"]["binds"] == "reading"


def test_rounds_are_added_and_must_be_alike(small):
    first = small("--rounds", "1")["rounds"]["kv"]["2 x 256"]["int4"]
    result = small("--rounds", "3")
    assert result["rounds"]["kv"]["2 x 256"]["int4"][:1] == first
    assert result["found"]["kv"]["2 x 256"]["int4"]["ms"]["n"] == 3
    assert small("--rounds", "2")["rounds"] == result["rounds"]
    format_speed.PROMPT = 32
    with pytest.raises(SystemExit, match=r"\(prompt_tokens\).*choose another --out"):
        small()
