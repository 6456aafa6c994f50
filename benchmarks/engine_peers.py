"""Our engine beside the engines people run on a CPU instead: the same checkpoint, in alternation.

Workloads: A, one request of 128 tokens in and 128 out; B, 32 of those at once;
C, 64 at once with 512 shared and 32 own tokens, 64 out; D, 48 at once with
lengths from Azure's conversations; P, one prompt of 2,048 tokens. TTFT is the
time of a request for one token; the decode speed of A is 127 tokens over what
128 take longer than one. An engine with a server is measured behind it, and we
behind ours; else libraries are measured. Engines take turns, ours first, and
the one whose turn it is not is paused. Only equal classes of weights are
compared; `ratios` holds, for each figure, the least lead over any peer of the
class, above 1 where ours is better.

    python -m benchmarks.engine_peers --work DIR --trace azure2023_conv.csv

Needs Linux; installs the engines into environments of their own under DIR,
where it also keeps what it converted. Takes hours; what is done is written
after every measurement, Ctrl-C loses only the one that runs, and --resume
goes on from there, some engines or workloads at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Class, NotMeasured, Peer, Room
from benchmarks.peers.ceiling import Rates, measured
from benchmarks.peers.ctranslate2 import CTranslate2
from benchmarks.peers.figures import FIGURES, Work
from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.match import Contestant, play
from benchmarks.peers.onnxruntime import OnnxRuntime
from benchmarks.peers.openvino import OpenVino
from benchmarks.peers.ours import Ours
from benchmarks.peers.transformers import Transformers
from benchmarks.peers.vllm import Vllm
from benchmarks.peers.work import maker, single
from penstock import models
from penstock.meter.machine import describe

PEERS: tuple[Peer, ...] = (
    *(OpenVino(), LlamaCpp(), Vllm()),
    *(OnnxRuntime(), CTranslate2(), Transformers()),
)
CLASSES: tuple[Class, ...] = ("int8", "int4", "bf16")
WORKLOADS = "ABCDP"
LONG_PROMPTS = (512, 2048, 8192)
PARTS_OF_A = {"ttft_s": ".ttft", "decode_tokens_per_s": ".decode"}  # the others have one figure


def ratios(matches: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
    """The least lead of ours over any peer of a class, by figure; and over whom that is.

    Both medians of a ratio come from one match, so that a machine that slows
    down between matches cannot favour anybody.
    """
    leads: dict[str, tuple[float, str]] = {}
    for match in matches:
        ours, theirs = match["sides"]
        for name in ours.get("figures", {}).keys() & theirs.get("figures", {}).keys():
            mine, other = (side["figures"][name]["median"] for side in (ours, theirs))
            lead = mine / other if FIGURES[name] else other / mine
            part = PARTS_OF_A[name] if match["workload"] == "A" else ""
            key = f"{match['workload']}{part}.{match['class']}"
            against = f"{theirs['engine']} {theirs['setting']}"
            leads[key] = min(leads.get(key, (lead, against)), (lead, against))
    order = sorted(leads)
    return (
        {key: round(leads[key][0], 4) for key in order},
        {key: leads[key][1] for key in order},
    )


class Benchmark:
    """A run: what was asked for, and the result as it grows."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.checkpoint = models.path(given.model)
        self.config = json.loads((self.checkpoint / "config.json").read_bytes())
        self.rates: Rates = measured(given.threads)
        self.result: dict[str, Any] = {
            "ratios": {},
            "ratios_against": {},
            "conditions": {
                "date": date.today().isoformat(),
                "hardware": describe(),
                "python": platform.python_version(),
                "threads": given.threads,
                "model": given.model,
                "synthetic": models.is_synthetic(self.checkpoint),
                "rounds": given.rounds,
                "limit_s": given.limit,
                "rates": asdict(self.rates),
            },
            "matches": [],
            "not_measured": [],
            "llama_bench": {},
            "ours_alone": [],
        }
        if given.resume and given.out.exists():
            self._resume()

    def _resume(self) -> None:
        """Take over what an earlier run of the same conditions measured."""
        old = json.loads(self.given.out.read_bytes())
        for name in ("hardware", "python", "threads", "model"):
            was, is_ = old["conditions"][name], self.result["conditions"][name]
            if was != is_:
                raise SystemExit(
                    f"--resume: {self.given.out} was measured with {name} {was}, not {is_}; "
                    "choose another --out."
                )
        for name in ("matches", "not_measured", "ours_alone", "llama_bench"):
            self.result[name] = old[name]

    def run(self) -> None:
        """Every match that was asked for."""
        peers = [peer for peer in PEERS if peer.name in self.given.only]
        for peer in peers:
            room = self._room(peer.name)
            print(f"{peer.name}: installing", file=sys.stderr)
            try:
                peer.install(room)
            except NotMeasured as error:
                self._missing(peer, None, str(error))
                continue
            for setting in peer.settings:
                if setting.kind not in self.given.classes:
                    continue
                try:
                    model = peer.prepare(room, self.checkpoint, setting)
                except NotMeasured as error:
                    self._missing(peer, setting.name, str(error))
                    continue
                self._matches(Contestant(peer, room, model, setting))
        if "ours" in self.given.only:
            self._alone(with_workloads=not peers)

    def _matches(self, peer: Contestant) -> None:
        setting = peer.setting
        ours = self._ours(setting.kind, served=peer.peer.served)
        for letter in self.given.workloads:
            if letter not in setting.workloads:
                self._missing(peer.peer, setting.name, f"{letter}: this setting cannot do it")
                continue
            if self._done("matches", letter, setting.kind, peer.peer.name, setting.name):
                continue
            print(f"  {letter}: penstock and {peer.peer.name} {setting.name}", file=sys.stderr)
            sides = play([ours, peer], self._work(letter), self.rates)
            self._add("matches", letter, setting.kind, sides)
        if isinstance(peer.peer, LlamaCpp) and setting.name not in self.result["llama_bench"]:
            self.result["llama_bench"][setting.name] = peer.peer.bench(peer.room, peer.model)

    def _alone(self, *, with_workloads: bool) -> None:
        """Ours at longer prompts, with the memory they take; without peers, at everything."""
        for kind in self.given.classes:
            ours = self._ours(kind, served=True)
            for letter in self.given.workloads if with_workloads else "":
                print(f"  {letter}: penstock {kind}", file=sys.stderr)
                self._add("ours_alone", letter, kind, play([ours], self._work(letter), self.rates))
            for length in LONG_PROMPTS if "P" in self.given.workloads else ():
                if self._done("ours_alone", f"P {length}", kind, ours.peer.name, ours.setting.name):
                    continue
                work = self._work("P", length)
                print(f"  P of {length}: penstock {kind}", file=sys.stderr)
                self._add("ours_alone", f"P {length}", kind, play([ours], work, self.rates))

    def _work(self, letter: str, prompt: int | None = None) -> Work:
        vocab = self.config["vocab_size"]
        make = maker(letter, vocab, self.given.trace)
        if prompt is not None:
            make = lambda seed: single(seed, vocab, prompt, 1)  # noqa: E731
        return Work(letter, make, self.config, self.given.rounds, self.given.limit)

    def _ours(self, kind: Class, *, served: bool) -> Contestant:
        peer = Ours(served)
        room = self._room(peer.name)
        peer.install(room)
        setting = next(one for one in peer.settings if one.kind == kind)
        return Contestant(peer, room, self.checkpoint, setting)

    def _room(self, name: str) -> Room:
        return Room(self.given.work.absolute() / name, self.given.threads)

    def _done(self, where: str, workload: str, kind: Class, engine: str, setting: str) -> bool:
        """Whether a run that this one resumes has measured it."""
        return any(
            (match["workload"], match["class"]) == (workload, kind)
            and (match["sides"][-1]["engine"], match["sides"][-1]["setting"]) == (engine, setting)
            for match in self.result[where]
        )

    def _missing(self, peer: Peer, setting: str | None, why: str) -> None:
        print(f"  {peer.name} {setting or ''}: {why}", file=sys.stderr)
        told = {"engine": peer.name, "setting": setting, "why": why}
        if told not in self.result["not_measured"]:
            self.result["not_measured"].append(told)
        self._write()

    def _add(self, where: str, workload: str, kind: Class, sides: list[dict[str, Any]]) -> None:
        today = date.today().isoformat()
        match = {"workload": workload, "class": kind, "date": today, "sides": sides}
        self.result[where].append(match)
        self.result["ratios"], self.result["ratios_against"] = ratios(self.result["matches"])
        for side in sides:
            medians = {n: f["median"] for n, f in side.get("figures", {}).items()}
            print(f"    {side['engine']}: {medians or side['error']}", file=sys.stderr)
        self._write()

    def _write(self) -> None:
        self.given.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.result, indent=2) + "\n"
        # Where things lie on this machine is nobody's business.
        text = text.replace(str(self.checkpoint), self.given.model)
        self.given.out.write_text(text.replace(str(self.given.work.resolve()), "WORK"))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for; ends the process with a message for what cannot be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["ours", *(peer.name for peer in PEERS)]
    parser.add_argument("--model", default="qwen3-0.6b", help="a made shape or a checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="where engines are kept")
    parser.add_argument("--only", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--classes", default=",".join(CLASSES), help="of weights")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a request may take")
    parser.add_argument("--trace", type=Path, help="azure2023_conv.csv, for D")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine_peers.json"))
    parser.add_argument("--resume", action="store_true", help="keep what --out holds already")
    given = parser.parse_args(words)
    for option, known in (("only", names), ("classes", CLASSES), ("workloads", WORKLOADS)):
        chosen = getattr(given, option).split(",")
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"--{option}: {', '.join(unknown)} is none of {', '.join(known)}")
        setattr(given, option, chosen)
    if "D" in given.workloads and given.trace is None:
        if data := os.environ.get("PENSTOCK_DATA"):
            given.trace = Path(data) / "traces" / "azure2023_conv.csv"
        else:
            parser.error("--trace: D needs azure2023_conv.csv; give it, or leave D out")
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= given.threads <= len(cpus):
        parser.error(f"--threads: {given.threads} of {len(cpus)} CPUs")
    return given


def main() -> None:
    """Measure, and write."""
    given = arguments()
    # For us and all that is started here: an engine that takes every core takes these.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    # As Ctrl-C: else the engines would go on, or stay paused, without us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    benchmark = Benchmark(given)
    try:
        benchmark.run()
    except KeyboardInterrupt:
        print(f"interrupted; what was done is in {given.out}", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps(benchmark.result["ratios"], indent=2))


if __name__ == "__main__":
    main()
