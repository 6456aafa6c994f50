"""A crew and a judge that answer at once, with rates a test can predict."""

from __future__ import annotations

from typing import ClassVar

import pytest

from penstock.ablate import ablation
from penstock.ablate.crew import Cannot
from penstock.ablate.load import Scale
from penstock.ablate.result import Worth
from penstock.ablate.setting import Ready, Shot

TINY = Scale(
    requests=8,
    samples=2,
    shared=32,
    own=16,
    output=8,
    seats=4,
    few=2,
    rounds=2,
    curve=(1, 2),
    minutes=0.02,
    rows=2,
    tasks=1,
)


def speed(setting) -> float:
    """Tokens per second of a setting: each technique has a factor of its own."""
    options = setting.options
    factors = {
        "cache": 4.0 if options.kv_cache else 1.0,
        "bf16": 2.0 if options.dtype == "bf16" else 1.0,
        "rows": min(options.max_running, 4),
        "sharing": 1.5 if options.prefix_sharing else 1.0,
        "chunks": 0.5 if options.chunked_prefill else 1.0,  # it loses
        "int8": {"plain": 1.0, "int8": 2.0, "int4": 3.0}[options.weights],
        "pruned": 1.25 if "pruned" in setting.forms else 1.0,
    }
    rate = 10.0
    for factor in factors.values():
        rate *= factor
    return rate


class FakeCrew:
    """See `Crew`. `served` notes every serving; after `stop_after` of them comes Ctrl-C."""

    served: ClassVar[list] = []
    guesses: ClassVar[dict] = {}  # what a source of guesses gives, in even and odd rounds
    stop_after: int | None = None
    lacking: str | None = None
    fading: str | None = None  # settings that serve, and whose worker dies thereafter

    def __init__(self, model, load, parts) -> None:
        self.scale = load.scale

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def forget(self) -> None:
        pass

    def ready(self, setting) -> Ready:
        if self.fading is not None and self.fading in str(setting):
            raise Cannot("a worker ended with status -9: ")
        return Ready(precision="bf16", kv="bf16", threads=2, weight_bytes=1 << 20, parameters=1)

    def serve(self, setting, turn, count) -> Shot:
        if self.stop_after is not None and len(self.served) >= self.stop_after:
            raise KeyboardInterrupt
        if self.lacking is not None and self.lacking in str(setting):
            raise Cannot(f"{self.lacking} cannot be had here")
        self.served.append((setting, turn, count))
        said = [[turn[1], index, 7, 8] for index in range(count)]
        guesses = self.guesses.get(setting.options.speculate, (1.0, 1.0))[turn[1] % 2]
        return Shot(
            seconds=4 * count / speed(setting) / guesses,
            prompt_tokens=48 * count,
            cached_tokens=0,
            ttft=[0.1] * count,
            tpot=[0.01] * count,
            peak_bytes=3 << 30,
            said=said,
        )


class FakeJudge:
    """See `Judge`."""

    def __init__(self, model, scale, parts, store) -> None:
        self.model = "embedded"

    def worth(self, setting) -> Worth:
        lossy = [setting.options.weights != "plain", "pruned" in setting.forms]
        return Worth(
            model="embedded",
            loss=2.8 if any(lossy) else 2.7,
            change=0.03 * lossy[0] + 0.1 * lossy[1],
            change_ci95=None,
            kl=0.01,
            doctests_right=0.5,
            doctests=5,
            how="2 rows",
        )


@pytest.fixture
def fake(monkeypatch):
    """`ablate` without a model: returns the crew's class, whose switches a test may set."""
    monkeypatch.setattr(ablation, "Crew", FakeCrew)
    monkeypatch.setattr(ablation, "Judge", FakeJudge)
    monkeypatch.setattr(FakeCrew, "served", [])
    return FakeCrew
