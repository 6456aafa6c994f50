"""Our own engine, calibrated from one sweep, predicted under other workloads.

python -m benchmarks.engine_validate [--target engine:embedded] [--seconds 20] [--rounds 3]

One sweep of mixed lengths is measured and calibrated from. Then short chat, long prompts and
shared prefixes are measured, round by round, and simulated with the calibrated step time: E2E and
output throughput, predicted against measured. Wants a machine with nothing else on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import penstock
from benchmarks.common import publish, spread

SWEEP = ["--concurrency", "1,4,16,48", "--input-len", "16-1200", "--output-len", "16-256"]
WORKLOADS = {
    "short chat": ["--input-len", "64", "--output-len", "128"],
    "long prompt": ["--input-len", "1500", "--output-len", "64"],
    "shared prefix": [
        *("--workload", "prefix:4,600", "--input-len", "700"),
        *("--output-len", "64"),
    ],
}
CONCURRENCY = ["--concurrency", "8"]
FLEET = '[[replicas]]\nsteptime = "engine.toml"\npolicy = { preset = "penstock" }\n'


def run(*arguments: str) -> None:
    """Run `penstock`. Raises `subprocess.CalledProcessError` with its output where it fails."""
    command = [sys.executable, "-m", "penstock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()


def bench(target: str | None, out: Path, *options: str) -> dict[str, float]:
    """Seconds and tokens/s of the one operating point that is measured, or simulated."""
    run("bench", *([target] if target else []), *options, "--out", str(out), "--no-html")
    point = json.loads((out / "run.json").read_text())["summary"]["points"][0]
    return {
        "e2e_s": point["e2e"]["mean"],
        "output_tokens_per_s": point["output_throughput"]["value"],
    }


def validate(target: str | None, seconds: float, rounds: int, folder: Path) -> dict[str, Any]:
    """Sweep, calibrate, then measure and simulate each workload, in turn."""
    each = ["--duration", str(seconds)]
    run("bench", *([target] if target else []), *SWEEP, *each, "--out", str(folder / "sweep"))
    run("calibrate", str(folder / "sweep"), "--out", str(folder / "engine.toml"))
    (folder / "fleet.toml").write_text(FLEET)
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {"measured": [], "simulated": []} for name in WORKLOADS
    }
    for turn in range(rounds):
        for name, options in WORKLOADS.items():
            for kind, whom in (("measured", target), ("simulated", f"sim:{folder / 'fleet.toml'}")):
                out = folder / f"{name} {kind} {turn}"
                seed = ("--seed", str(turn))
                figures = bench(whom, out, *CONCURRENCY, *options, *each, *seed)
                found[name][kind].append(figures)
    return {name: _errors(both["measured"], both["simulated"]) for name, both in found.items()}


def _errors(true: list[dict[str, float]], guess: list[dict[str, float]]) -> dict[str, Any]:
    """Median relative error of each figure, pair by pair, and what was measured."""
    result: dict[str, Any] = {}
    for name in ("e2e_s", "output_tokens_per_s"):
        pairs = [b[name] / a[name] - 1 for a, b in zip(true, guess, strict=True)]
        result[name] = {"error": spread(pairs), "measured": spread([a[name] for a in true])}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", help="as `penstock bench` takes it; the embedded engine")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load at each point")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = validate(given.target, given.seconds, given.rounds, Path(folder))
    told = {"date": date.today().isoformat(), "penstock": penstock.__version__}
    publish({**found, "conditions": told | {"seconds": given.seconds}}, given.out)


if __name__ == "__main__":
    main()
