"""The benchmark of KV budgets, made small: every cell is there and says what it should."""

import pytest

from benchmarks import copier, kv_budget


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(copier, "STEPS", (3, 4))
    monkeypatch.setattr(kv_budget, "PROMPT", 160)
    monkeypatch.setattr(kv_budget, "BUDGETS", (64,))
    monkeypatch.setattr(kv_budget, "LONG", 120)
    monkeypatch.setattr(kv_budget, "OUTPUT", 40)
    monkeypatch.setattr(kv_budget, "POOL", 320)
    monkeypatch.setattr(kv_budget, "WAYS", {"all": {}, "recent": {"kv_budget": 64}})


def test_copying_at_equal_budgets(small, tmp_path):
    found = kv_budget.copy(tmp_path, 2)
    assert set(found["results"]) == {"all", *(f"{keep} 64" for keep in kv_budget.KEEPS)}
    assert found["results"].pop("all")["dropped_tokens"] == 0
    assert len({one["dropped_tokens"] for one in found["results"].values()}) == 1
    trained = (tmp_path / "model.safetensors").stat().st_mtime_ns
    kv_budget.copy(tmp_path, 1)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == trained, "trained once"


def test_rounds_are_added_and_must_be_alike(small):
    held = kv_budget.speed("embedded", 1, 1, {})
    more = kv_budget.speed("embedded", 1, 1, held)
    assert len(more["rounds"]) == more["ratios_to_all"]["recent"]["n"] == 2
    assert more["ratios_to_all"]["all"]["median"] == 1.0
    kv_budget.POOL = 336
    with pytest.raises(SystemExit, match="not alike"):
        kv_budget.speed("embedded", 1, 1, held)
