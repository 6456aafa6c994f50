"""The first command a newcomer types, only shorter: no target at all."""

import json

import psutil
import pytest

from tests.cli.test_bench import run

pytest.importorskip("torch", reason="the embedded model needs PyTorch")


def test_the_embedded_model_is_served_measured_and_stopped(tmp_path):
    done = run(
        "bench", "--concurrency", "1,2", "--requests", "8", "--input-len", "16-24",
        "--output-len", "4", "--json", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [p["completed"] for p in summary["points"]] == [8, 8]
    for point in summary["points"]:
        assert point["tokens"]["source"] == "server usage"
        assert point["tokens"]["output"] == 32
        assert point["conditions"]["output_length"].startswith("forced")
        assert point["conditions"]["precision"] in ("bf16", "fp32")
        assert 0 < point["limit"]["fraction"] < 1
    assert not [
        child for child in psutil.Process().children(recursive=True) if "serve" in child.cmdline()
    ]
