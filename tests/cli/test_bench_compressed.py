"""`penstock bench --compress-prompts`: shorter prompts are sent, and the run says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def bench(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock", "bench", "engine:embedded", *arguments]
    return subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--no-html", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_run_has_shorter_prompts_and_its_conditions_tell(tmp_path: Path) -> None:
    load = ["--concurrency", "2", "--requests", "4", "--warmup", "1"]
    lengths = ["--input-len", "200", "--output-len", "4"]
    made = bench(tmp_path, *load, *lengths, "--compress-prompts", "0.5")
    assert made.returncode == 0, made.stderr
    (point,) = json.loads(made.stdout)["points"]
    told: dict[str, Any] = point["conditions"]
    assert told["prompt_tokens_asked"] == "100"
    assert "shortened beforehand to 50%" in told["prompts"]
    assert point["tokens"]["prompt"] == pytest.approx(4 * 100, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--compress-prompts", "2"], "keep=2"),
        (["--compress-model", "embedded"], "--compress-prompts"),
        (["--compress-prompts", "0.5", "--workload", "prefix:2,64"], "stand by themselves"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, arguments: list[str], why: str) -> None:
    made = bench(tmp_path, *arguments)
    assert made.returncode == 2
    assert why in " ".join(made.stderr.replace("│", " ").split())
