"""The flags of any other server, ablated: started with and without each, in interleaved rounds.

Whatever the command prints is untrusted: it goes to a file, and is quoted, never read.
"""

from __future__ import annotations

import asyncio
import platform
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import penstock
from penstock.ablate.hand import family, last_words, running
from penstock.ablate.load import Scale
from penstock.ablate.progress import Progress, unwatched
from penstock.ablate.store import Store
from penstock.meter.bench import bench
from penstock.meter.http import HttpTarget
from penstock.meter.options import Options
from penstock.meter.target import TargetError
from penstock.record.price import MILLION, SECONDS
from penstock.record.run import Condition
from penstock.record.stats import Interval, t_interval
from penstock.record.verdict import Reason
from penstock.workload.lengths import Lengths
from penstock.workload.presets import parse_workload

START_S = 900.0  # a server may have to load tens of gigabytes
LOOK_S = 0.2  # between two looks whether it answers
BASE = "without"
METRICS = ("tokens_per_s", "ttft", "tpot", "peak_bytes")  # of `Served`, that are compared
COST = "cost"  # of a million output tokens: compared too


class Unserved(Exception):
    """The command did not come to serve; the message says why, with its last words."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A command with `{flag}`, and `{port}` unless `url` is known; the flags to try.

    Raises `ValueError` saying what is missing.
    """

    command: str
    flags: tuple[str, ...]
    scale: Scale
    url: str | None = None
    penstock: str = penstock.__version__

    def __post_init__(self) -> None:
        if "{flag}" not in shlex.split(self.command):
            raise ValueError("--launch needs the word {flag} where flags go.")
        if not self.flags:
            raise ValueError("--launch needs flags to try: --flag, again for each.")
        if len(set(self.flags)) < len(self.flags):
            raise ValueError("--flag: name each only once.")
        if ("{port}" in self.command) == (self.url is not None):
            raise ValueError(
                "--launch needs either {port}, for which a free one is put in, or --url, where "
                "the server answers."
            )

    def words(self, flag: str, port: int) -> list[str]:
        """The command as it is run, without a shell; `flag` "" for none."""
        found: list[str] = []
        for word in shlex.split(self.command):
            found += shlex.split(flag) if word == "{flag}" else [word.replace("{port}", str(port))]
        return found


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the server and one serving: rates in tokens per second, times in seconds.

    `ttft` and `tpot` are medians; `peak_bytes` is the resident memory of the process
    and all it started, each at its peak, None where the system does not tell.
    `doubts` are the reasons of a verdict that is INVALID.
    """

    tokens_per_s: float | None
    ttft: float | None
    tpot: float | None
    peak_bytes: int | None
    start_s: float  # until it answered
    requests: int
    failed: int
    doubts: list[Reason]
    conditions: dict[str, Condition]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """With the flag over without, each round by itself: geometric mean, 95 % by Student's t.

    `ci95` is None with one round. `differs` says whether chance is ruled out.
    """

    metric: str
    base: float
    value: float
    ratio: float
    ci95: Interval | None

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out."""
        return self.ci95 is not None and not self.ci95[0] <= 1 <= self.ci95[1]


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """One flag: the whole command, and the differences; or why it could not be served."""

    flag: str
    command: str
    differences: list[Difference]
    cannot: str | None = None


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """What `penstock ablate --launch --json` prints."""

    command: str
    base: list[Served]
    flags: list[Flag]
    conditions: dict[str, Any]
    notes: list[str]


def ablate_flags(
    launch: Launch, directory: Path, price: float, progress: Progress = unwatched
) -> Launched:
    """Start, measure and stop the server, without flags and with each, in every round.

    Every other round runs the other way about. What is measured is kept in
    `directory`; `price` is of an hour of the machine. Raises `ValueError` if the
    command does not serve without flags.
    """
    store = Store(directory / "launch.jsonl", launch)
    log = directory / "server.log"
    each = ("", *launch.flags)
    seen: dict[str, list[Served]] = {flag: [] for flag in each}
    cannot: dict[str, str] = {}
    rounds = launch.scale.rounds
    for turn in range(rounds):
        for place, flag in enumerate(each if turn % 2 == 0 else each[::-1]):
            progress(flag or BASE, turn * len(each) + place, rounds * len(each))
            if flag in cannot:
                continue
            try:
                served = store.once(
                    f"{flag}/{turn}",
                    Served,
                    lambda f=flag, t=turn: _serve(launch, f, t, log),  # type: ignore[misc]
                )
            except Unserved as error:
                if not flag:
                    raise ValueError(f"the command does not serve: {error}") from error
                cannot[flag] = str(error)
            else:
                seen[flag].append(served)
    base = seen[""]
    return Launched(
        command=launch.command,
        base=base,
        flags=[
            Flag(
                flag=flag,
                command=shlex.join(launch.words(flag, 0)),
                differences=[] if flag in cannot else list(differences(base, seen[flag], price)),
                cannot=cannot.get(flag),
            )
            for flag in launch.flags
        ],
        conditions=_conditions(launch, base, price, store),
        notes=[*store.told(), *_notes(seen)],
    )


def differences(
    base: Sequence[Served], flagged: Sequence[Served], price: float
) -> Sequence[Difference]:
    """Of every metric that all rounds have, and of what a million output tokens cost."""
    found = []
    for metric in (*METRICS, COST):
        pairs = [
            (_value(a, metric, price), _value(b, metric, price))
            for a, b in zip(base, flagged, strict=True)
        ]
        if not all(old and new for old, new in pairs):
            continue
        logs = [float(np.log(new / old)) for old, new in pairs]
        ends = t_interval(logs)
        found.append(
            Difference(
                metric=metric,
                base=float(np.median([old for old, _ in pairs])),
                value=float(np.median([new for _, new in pairs])),
                ratio=float(np.exp(np.mean(logs))),
                ci95=None if ends is None else [float(np.exp(end)) for end in ends],
            )
        )
    return found


def _value(one: Served, metric: str, price: float) -> float:
    """Zero where it is unknown."""
    if metric != COST:
        return float(getattr(one, metric) or 0)
    return price / SECONDS * MILLION / one.tokens_per_s if one.tokens_per_s else 0.0


def _serve(launch: Launch, flag: str, turn: int, log: Path) -> Served:
    """One start and one serving."""
    port = _free_port()
    words = launch.words(flag, port)
    url = launch.url or f"http://127.0.0.1:{port}"
    if launch.url is not None and _answers(url):
        raise Unserved(f"{url} answers before the command is started; stop what runs there")
    try:
        with running(words, log) as process:
            return asyncio.run(_measure(launch, url, turn, process, log))
    except OSError as error:
        raise Unserved(f"{words[0]}: {error}") from error


async def _measure(
    launch: Launch, url: str, turn: int, process: subprocess.Popen[bytes], log: Path
) -> Served:
    began = time.monotonic()
    target = await _ready(url, process, began, log)
    start_s = time.monotonic() - began
    target.info.facts = None  # no ceiling is asked for: measuring the machine takes seconds
    try:
        run = await bench(target, _options(launch.scale, turn))
    except TargetError as error:
        raise Unserved(str(error)) from error
    finally:
        await target.close()
    (point,) = run.summary["points"]
    if not point["completed"]:
        kinds = ", ".join(point["errors"]["by_class"]) or "nothing"
        raise Unserved(f"no request finished ({kinds}): {last_words(log)}")
    return Served(
        tokens_per_s=point["output_throughput"]["value"],
        ttft=point["ttft"]["p50"],
        tpot=point["tpot"]["p50"],
        peak_bytes=peak_of(process.pid),
        start_s=start_s,
        requests=point["completed"],
        failed=point["errors"]["count"],
        doubts=msgspec.convert(run.summary["verdict"]["reasons"], list[Reason]),
        conditions=target.info.conditions,
    )


async def _ready(url: str, process: subprocess.Popen[bytes], began: float, log: Path) -> HttpTarget:
    """The server, once it answers."""
    while True:
        try:
            return await HttpTarget.open(url)
        except TargetError as error:
            if process.poll() is not None:
                raise Unserved(
                    f"ended with status {process.returncode}: {last_words(log)}"
                ) from error
            if time.monotonic() - began > START_S:
                raise Unserved(f"not ready after {START_S:.0f} s: {error}") from error
        await asyncio.sleep(LOOK_S)


def _options(scale: Scale, turn: int) -> Options:
    """The load: the same lengths in all rounds and for all flags, text of its own in each round."""
    return Options(
        concurrency=(scale.seats,),
        requests=scale.requests,
        warmup=min(2, scale.requests - 1),
        workload=parse_workload(f"prefix:1,{scale.shared}"),
        input_len=Lengths(kind="uniform", a=scale.own, b=scale.own),
        output_len=Lengths(kind="uniform", a=max(2, scale.output // 2), b=scale.output * 3 // 2),
        seed=turn,
    )


def peak_of(process: int) -> int | None:
    """Bytes resident at most of a process and all it started (Linux; None elsewhere)."""
    total = None
    for member in family(process):
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:  # it has just ended
            continue
        kib = next((x.split()[1] for x in status.splitlines() if x.startswith("VmHWM:")), "0")
        total = (total or 0) + 1024 * int(kib)
    return total


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(url: str) -> bool:
    async def asked() -> bool:
        try:
            target = await HttpTarget.open(url)
        except TargetError:
            return False
        await target.close()
        return True

    return asyncio.run(asked())


def _conditions(
    launch: Launch, base: Sequence[Served], price: float, store: Store
) -> dict[str, Any]:
    scale = launch.scale
    return {
        "date": store.days,
        "penstock": penstock.__version__,
        "python": platform.python_version(),
        "machine": store.machine,
        **(dict(base[0].conditions) if base else {}),
        "load": f"{scale.requests} requests, {scale.seats} at once; prompts of "
        f"{scale.shared} shared and {scale.own} own tokens, answers of {scale.output} on average",
        "rounds": f"{scale.rounds}, the server started anew for each, every other round the "
        "other way about",
        "price": f"{price:g} per hour of the machine",
        "cost": "of a million output tokens",
    }


def _notes(seen: dict[str, list[Served]]) -> list[str]:
    notes = []
    for flag, each in seen.items():
        name = flag or "without flags"
        if failed := sum(one.failed for one in each):
            notes.append(f"{name}: {failed} requests failed; they are no part of the figures.")
        if len({one.conditions.get("target_version") for one in each}) > 1:
            notes.append(f"{name}: the server's version changed between rounds.")
    return [*notes, *_doubts([one for each in seen.values() for one in each])]


def _doubts(servings: Sequence[Served]) -> Iterator[str]:
    """Each kind of reason for which servings are INVALID, with the first that was found."""
    doubts = [doubt for one in servings for doubt in one.doubts]
    for code in dict.fromkeys(doubt.code for doubt in doubts):
        says = [doubt.says for doubt in doubts if doubt.code == code]
        yield f"INVALID in {len(says)} of {len(servings)} servings, {code}; the first: {says[0]}."
