"""Engines that take turns at one workload."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Load, NotMeasured, Peer, Room, Running, Setting
from benchmarks.peers.ceiling import Rates
from benchmarks.peers.figures import Work, figure, limits, timed
from benchmarks.peers.process import forget_peak, paused, peak_rss

WARM_TOKENS = 8  # of each answer of a warm-up


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine with a setting, and the checkpoint as it reads it."""

    peer: Peer
    room: Room
    model: Path
    setting: Setting


@dataclass(slots=True)
class Side:
    """One engine in a match: what it is, what it did, and what went wrong with it."""

    one: Contestant
    work: Work
    running: Running | None = None
    error: str | None = None
    ready_s: float = 0.0
    peak_with_start: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)

    def start(self, stack: ExitStack) -> None:
        """Start it and have it answer one token: what a user waits for before work begins."""
        one, begin = self.one, time.perf_counter()
        starting = one.peer.start(one.room, one.model, one.setting, self.work.load("0"))
        self.running = stack.enter_context(starting)
        prompt = self.work.load("ready").prompts[0][:16]
        self.running.run(Load([prompt], [1]), self.work.limit_s)
        self.ready_s = time.perf_counter() - begin

    def warm_up(self) -> None:
        """The workload with short answers: what is made at first use is made."""
        assert self.running is not None
        load = self.work.load("warm-up")
        short = Load(load.prompts, [min(n, WARM_TOKENS) for n in load.outputs], load.shared)
        self.running.run(short, self.work.limit_s)
        self.peak_with_start = peak_rss(self.running.pid)
        forget_peak(self.running.pid)

    def take_turn(self, round_: int) -> None:
        """Time the workload once."""
        assert self.running is not None
        seen = timed(self.running, self.one.setting, self.work, str(round_))
        for name, value in seen.items():
            self.values.setdefault(name, []).append(value)

    def result(self, rates: Rates) -> dict[str, Any]:
        """What is published of it."""
        setting = self.one.setting
        said: dict[str, Any] = {
            "engine": self.one.peer.name,
            "setting": setting.name,
            "mode": "served" if self.one.peer.served else "library",
            "weights": setting.weights,
            "activations": setting.activations,
            "kv": setting.kv,
        }
        if self.running is None or self.error is not None:
            return said | {"error": self.error}
        started = self.running.started
        load = self.work.load("0")
        least = limits(self.work, setting, started.facts, rates)
        if "kv_dtype" in started.facts:
            said["kv"] = started.facts["kv_dtype"]
        return said | {
            "version": started.version,
            "flags": started.flags,
            "primed": setting.primed and load.shared > 0,
            "facts": started.facts,
            "ready_s": round(self.ready_s, 2),
            "peak_rss_bytes": peak_rss(self.running.pid),
            "peak_rss_with_start_bytes": self.peak_with_start,
            "figures": {
                name: figure(name, values, load, least[name])
                for name, values in self.values.items()
            },
        }


def play(contestants: Sequence[Contestant], work: Work, rates: Rates) -> list[dict[str, Any]]:
    """Let them take turns, in order; whose turn it is not is paused. A result for each.

    One that fails is out, with its reason as `error`; the others go on.
    """
    sides = [Side(one, work) for one in contestants]

    def each(act: Callable[[Side], None]) -> None:
        for side in sides:
            if side.error is not None:
                continue
            others = [s.running.pid for s in sides if s is not side and s.running is not None]
            try:
                with paused(others):
                    act(side)
            except NotMeasured as error:
                side.error = str(error)
                print(f"    {side.one.peer.name}: {error}", file=sys.stderr)

    with ExitStack() as stack:
        each(partial(Side.start, stack=stack))
        each(Side.warm_up)
        for round_ in range(work.rounds):
            each(partial(Side.take_turn, round_=round_))
        return [side.result(rates) for side in sides]
