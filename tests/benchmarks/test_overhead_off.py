"""What techniques cost whoever has them switched off: turns, arithmetic, one small run."""

import numpy as np
import pytest

pytest.importorskip("torch")
from benchmarks.overhead_off import LANES, cell, measure
from benchmarks.trees import PARTS, ROOT, Tree

from penstock import models

STEPS = 100
HOST = {"before": 0.2e-3, "now": 0.25e-3, "again": 0.25e-3}  # seconds a step
MODEL = 1e-3


def rounds(count):
    """Processes whose memory lies better or worse: a percent of their model's time."""
    rng = np.random.default_rng(0)

    def lane(name):
        model, host = MODEL * rng.normal(1, 0.01), HOST[name] * rng.normal(1, 0.01)
        parts = dict.fromkeys(PARTS, 0.0) | {"model": STEPS * model, "schedule": STEPS * host}
        return parts | {"steps": STEPS, "tokens": 8 * STEPS, "seconds": STEPS * (model + host)}

    return [{name: lane(name) for name in LANES} for _ in range(count)]


def test_the_intervals_hold_the_truth():
    found = cell(rounds(14))
    truth = (MODEL + HOST["before"]) / (MODEL + HOST["now"])
    assert found["speed"]["low95"] < truth < found["speed"]["high95"] < 0.99
    assert found["method"]["low95"] < 1 < found["method"]["high95"]
    more = (HOST["now"] - HOST["before"]) / (MODEL + HOST["before"])
    assert found["more_host"]["low95"] < more < found["more_host"]["high95"]
    assert found["more_host"]["high95"] - found["more_host"]["low95"] < 0.005
    assert found["host_ms"]["now"] == pytest.approx(0.25, rel=0.02)
    assert found["step_ms"]["before"] == pytest.approx(1.2, rel=0.02)
    assert found["parts_ms"]["schedule"] == found["host_ms"]
    assert found["rounds"] == 14
    assert found["steps"] == 14 * STEPS


class Slower:
    """A step takes as long as the number of turns that all have taken."""

    def __init__(self, name, turns, tokens=4):
        self.name, self.turns, self.tokens = name, turns, tokens

    def block(self, steps):
        self.turns.append(self.name)
        return {"steps": steps, "tokens": self.tokens, "seconds": len(self.turns)}


def test_a_machine_that_slows_down_slows_all_alike():
    turns = []
    sums = measure({name: Slower(name, turns) for name in LANES}, steps=4, seconds=15)
    assert [turns[at : at + 3] for at in (0, 3, 6)] == [
        ["before", "now", "again"],
        ["again", "before", "now"],
        ["now", "again", "before"],
    ]
    assert {each["seconds"] for each in sums.values()} == {15}
    assert {each["tokens"] for each in sums.values()} == {12}


def test_trees_that_take_other_steps_are_not_compared():
    trees = {"before": Slower("before", []), "now": Slower("now", [], tokens=5)}
    with pytest.raises(RuntimeError, match="before 8, now 10"):
        measure(trees, steps=4, seconds=1)


@pytest.mark.slow
def test_two_processes_of_this_tree_take_the_very_same_steps():
    model = models.path("embedded-draft")
    trees = {name: Tree(ROOT, model, most=3) for name in ("now", "again")}
    try:
        told = [tree.told() for tree in trees.values()]
        assert told[0]["parameters"] == told[1]["parameters"] > 0
        for at_once in (1, 3):
            for tree in trees.values():
                tree.begin(at_once, seed=0)
            sums = measure(trees, steps=20, seconds=0.05)
            for each in sums.values():
                assert each["steps"] % 40 == 0
                assert each["tokens"] == pytest.approx(at_once * each["steps"], rel=0.05)
                parts = sum(each[part] for part in PARTS)
                assert each["model"] < parts < each["seconds"]
    finally:
        for tree in trees.values():
            tree.end()


def test_a_directory_without_the_project_is_no_tree(tmp_path):
    with pytest.raises(FileNotFoundError, match="no src/penstock"):
        Tree(tmp_path, models.path("embedded-draft"), most=1)


def test_the_table_tells_what_was_found(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from readme_overhead import switched_off

    told = {"date": "d", "model": "m", "dtype": "bf16", "threads": 1, "processor": "p"}
    told |= {"prompt": 32, "output": [16, 96], "turn": 4, "seconds": 1.2}
    commits = {"before": "abc", "now": "def"}
    cells = {str(n): cell(rounds(6)) for n in (8, 1)}
    table = switched_off({"cells": cells, "conditions": told, "commits": commits})
    rows = [line.split("|") for line in table.splitlines()[2:4]]
    assert [row[1].strip() for row in rows] == ["1", "8"]
    assert f"{cells['1']['speed']['low95']:.3f}" in rows[0][7]
    assert f"{100 * cells['8']['more_host']['share']:+.2f} %" in rows[1][6]
