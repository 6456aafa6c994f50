"""What every benchmark shares: its conditions, its engine, its JSON."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import penstock
from penstock.engine.engine import Engine
from penstock.engine.request import GenerateRequest, ModelFacts, SamplingParams


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Options of every benchmark: the model, the rounds, where the JSON goes."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    return parser


def conditions(engine: Engine) -> dict[str, Any]:
    """Under which conditions the figures of one engine hold."""
    return described(engine.facts)


def described(facts: ModelFacts) -> dict[str, Any]:
    """The same of a model that is loaded without an engine."""
    return {
        "date": date.today().isoformat(),
        "penstock": penstock.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "model": facts.name,
        "parameters": facts.parameters,
        "dtype": facts.dtype,
        "threads": facts.threads,
        "mode": "offline",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown"
    )


def requests(
    engine: Engine, lengths: list[int], prompt: int, seed: int = 0
) -> list[GenerateRequest]:
    """Requests with distinct random prompts and forced output lengths, greedy."""
    rng = random.Random(seed)
    return [
        GenerateRequest(
            id=f"{seed}-{i}",
            prompt=[rng.randrange(engine.facts.vocab_size) for _ in range(prompt)],
            params=SamplingParams(temperature=0.0, seed=i, max_tokens=length, ignore_eos=True),
        )
        for i, length in enumerate(lengths)
    ]


def serve(engine: Engine, work: list[GenerateRequest]) -> float:
    """Serve everything, all queued at once; return the seconds it took."""
    for request in work:
        engine.submit(request)
    started = time.perf_counter()
    while engine.has_work:
        deltas = engine.step()
        if any(d.finish_reason == "error" for d in deltas):
            raise RuntimeError(next(d.error for d in deltas if d.error))
    return time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def publish(result: dict[str, Any], out: Path | None) -> None:
    """Print the result as JSON, and write it where asked."""
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


class Study:
    """Results so far, written after each."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self.result: dict[str, Any] = {}
        if out is not None and out.exists():
            self.result = json.loads(out.read_text())

    def put(self, *path: str, value: Any) -> None:
        """Keep a value."""
        place = self.result
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text(json.dumps(self.result, indent=1) + "\n")

    def under(self, conditions: dict[str, Any]) -> None:
        """Keep the conditions of all results; the date is that of the first.

        Raises `SystemExit` where the file holds results of others.
        """
        held = self.result.get("conditions", {})
        if other := [
            name for name in held if name != "date" and held[name] != conditions.get(name)
        ]:
            raise SystemExit(
                f"{self._out} holds results of other conditions ({', '.join(other)}): "
                "remove it, or choose another --out."
            )
        self.put("conditions", value=conditions | {"date": held.get("date", conditions["date"])})

    def has(self, *path: str) -> bool:
        """Whether it is known."""
        place = self.result
        for name in path:
            if name not in place:
                return False
            place = place[name]
        return True
