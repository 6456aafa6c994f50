"""The benchmark of pruning: at each sparsity every way is timed, and the shape's own share told."""

import argparse

from benchmarks.common import Study

from benchmarks import compress_pruning


def test_the_ways_at_half_are_all_timed(monkeypatch):
    half = {name for name in compress_pruning.WAYS if " 1/2" in name}
    assert half <= set(compress_pruning.TIMED) <= set(compress_pruning.WAYS)
    monkeypatch.setattr(compress_pruning, "TIMED", ("depth 1/2, loss", "zeros 1/2, free"))
    study = Study(None)
    compress_pruning.measure_speed(study, argparse.Namespace(shape="embedded-draft", rounds=1))
    speed = study.result["speed"]
    assert set(speed) == {"original", *compress_pruning.TIMED}
    assert speed["depth 1/2, loss"]["of_layers"] == [0.5]
    assert speed["zeros 1/2, free"]["of_layers"][0] < 0.51
    assert speed["zeros 1/2, free"]["step_bytes"] == speed["original"]["step_bytes"]
    assert all(rates["16"][1] > 0 for rates in speed.values())
    assert study.result["conditions"]["speed"]["rounds"] == 1
