"""Load generators against a server whose truth is known: what each reports, and what was true.

Every tool asks the same ground-truth server (`penstock.meter.truth`) for the
same answers, tools in turn at each level, so that what disturbs the machine
disturbs all. A row whose server was late itself by 1 ms or more (p99) is void.
For our own tool the error is also taken request by request.

    python -m benchmarks.meter_truth --work DIR --tokenizer DIR

DIR of `--work` keeps each tool's virtual environment, made on the first run;
`--tokenizer` is a directory in Hugging Face layout, for the tools that need one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.load_tools import TOOLS, Task, Told, Tool, program, version
from penstock.meter.machine import describe
from penstock.meter.selftest import LATE_MS
from penstock.meter.truth import Timing, TrueAnswer, Truth, true_server

ROUNDS = 3  # answers on each stream
READING_NS = 250_000_000  # after the last event: answers are read; writing a report is not counted
IDENTITY = ("repeat", "itl_ms", "streams", "start", "tool")  # of a row
RESULT = Path(__file__).parent / "results" / "meter_truth.json"


class CpuTime:
    """CPU seconds of a process and all that it starts, sampled to leave start-up out."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._used: dict[int, float] = {}
        self._samples: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def between(self, start_ns: int, end_ns: int) -> float:
        """CPU seconds between two times of `monotonic_ns`; ends the sampling."""
        self._over.set()
        self._thread.join()
        times, used = zip(*self._samples, strict=True)
        first, last = np.interp([start_ns, end_ns], times, used)
        return float(last - first)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    spent = process.cpu_times()
                    self._used[process.pid] = spent.user + spent.system
            except psutil.Error:
                pass  # it has just ended; what it used until then still counts
            self._samples.append((time.monotonic_ns(), sum(self._used.values())))


def measure(
    tool: Tool,
    start: list[str],
    *,
    streams: int,
    burst: bool,
    timing: Timing,
    tokenizer: Path,
) -> dict[str, Any]:
    """One run of one tool; its row."""
    answer_s = timing.ttft_s + (timing.events - 1) * timing.itl_s
    row: dict[str, Any] = {
        "tool": tool.name,
        "streams": streams,
        "start": "burst" if burst else "staggered",
        "itl_ms": timing.itl_s * 1e3,
    }
    with tempfile.TemporaryDirectory() as folder:
        with true_server(timing) as truth:
            task = Task(
                url=truth.url,
                streams=streams,
                requests=ROUNDS * streams,
                tokens=timing.events,
                rate=None if burst else streams / answer_s,
                tokenizer=tokenizer.resolve(),
                folder=Path(folder),
            )
            generic = tool.arguments(
                replace(task, url="URL", tokenizer=Path("TOK"), folder=Path(folder))
            )
            row["command"] = " ".join([tool.program, *generic]).replace(folder, "DIR")
            # Last, since it writes the files that the tool reads.
            command = [*start, *tool.arguments(task)]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            cpu = CpuTime(process.pid)
            try:
                said, _ = process.communicate(timeout=120 + 6 * ROUNDS * answer_s)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
        answers = sorted(truth.answers, key=lambda answer: answer.arrival_ns)
        answers = [a for a in answers[-task.requests :] if len(a.event_ns)]  # probes come before
        if process.returncode != 0 or not answers:
            cpu.between(0, 0)
            return row | {"failed": said.strip().splitlines()[-3:]}
        begun, ended = answers[0].arrival_ns, max(int(a.event_ns[-1]) for a in answers)
        row["cpu_s_per_1000_events"] = round(
            1000 * cpu.between(begun, ended + READING_NS) / sum(len(a.event_ns) for a in answers), 4
        )
        told = tool.read(Path(folder))
    return row | _judged(told, answers, truth, answer_s * ROUNDS if burst else None)


def _judged(
    told: Told, answers: Sequence[TrueAnswer], truth: Truth, ideal_s: float | None
) -> dict[str, Any]:
    """Reported, true, and the difference."""
    ttft = np.array([answer.ttft_ns for answer in answers]) * 1e-6
    gaps = np.concatenate([np.diff(answer.event_ns) for answer in answers]) * 1e-6
    true = {
        "ttft_mean": float(ttft.mean()),
        "ttft_p50": float(np.quantile(ttft, 0.5)),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "gap_mean": float(gaps.mean()),
        "gap_p99": float(np.quantile(gaps, 0.99)),
    }
    reported = {key: getattr(told, key) for key in true}
    begun, ended = answers[0].arrival_ns, max(int(a.event_ns[-1]) for a in answers)
    late_ms = truth.late_ms_p99
    return {
        "answers": len(answers),
        "most_at_once": _most_at_once(answers),
        "true_ms": _rounded(true),
        "reported_ms": _rounded(reported),
        "error_ms": _rounded(
            {key: abs(value - true[key]) for key, value in reported.items() if value is not None}
        ),
        "by_request_ms": _by_request(told, answers),
        "ideal_share": None if ideal_s is None else round(ideal_s / ((ended - begun) * 1e-9), 4),
        "server_late_ms_p99": round(late_ms, 3),
        "void": late_ms >= LATE_MS,
    }


def _by_request(told: Told, answers: Sequence[TrueAnswer]) -> dict[str, float] | None:
    """Absolute errors of single requests and gaps, for a tool that gives its records."""
    if not told.records:
        return None
    truths = {answer.id: answer for answer in answers}
    ttft: list[float] = []
    gaps: list[float] = []
    for record in told.records:
        truth = truths[int(record["request_id"])]
        ttft.append(abs(record["first_ns"] - record["sent_ns"] - truth.ttft_ns) * 1e-6)
        if len(record["event_ns"]) != len(truth.event_ns):
            raise ValueError(f"request {record['request_id']} has not the events that were sent")
        gaps += (np.abs(np.diff(record["event_ns"]) - np.diff(truth.event_ns)) * 1e-6).tolist()
    return _rounded(
        {
            "ttft_mean": float(np.mean(ttft)),
            "ttft_p99": float(np.quantile(ttft, 0.99)),
            "gap_mean": float(np.mean(gaps)),
            "gap_p99": float(np.quantile(gaps, 0.99)),
        }
    )


def _most_at_once(answers: Sequence[TrueAnswer]) -> int:
    moments = sorted(
        (t, d) for a in answers for t, d in ((a.arrival_ns, 1), (int(a.event_ns[-1]), -1))
    )
    return int(np.cumsum([change for _, change in moments]).max())


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else round(value, 4) for key, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="keeps the tools' environments")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tools", default=",".join(tool.name for tool in TOOLS))
    parser.add_argument("--streams", default="1,10,100,500,1000")
    parser.add_argument("--starts", default="staggered,burst")
    parser.add_argument(
        "--itl", default="50", help="ms between events; 50,12 shows the ceiling too"
    )
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT, help="written after every row")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out has")
    given = parser.parse_args()
    held = json.loads(given.out.read_bytes()) if given.resume else {}
    versions: dict[str, str] = held["conditions"]["versions"] if held else {}
    starts: dict[str, list[str]] = {}
    chosen = [tool for tool in TOOLS if tool.name in given.tools.split(",")]
    for tool in chosen:
        try:
            starts[tool.name] = program(tool, given.work)
            versions[tool.name] = version(tool, given.work)
        except (RuntimeError, subprocess.SubprocessError) as error:
            versions[tool.name] = f"not measured: {error}"
    result: dict[str, Any] = {
        "conditions": {
            "hardware": describe(),
            "kernel": platform.release(),
            "ttft_ms": 50,
            "events": given.events,
            "rounds": ROUNDS,
            "versions": versions,
        },
        "rows": held.get("rows", []),
    }
    rows = result["rows"]
    done = [[row[key] for key in IDENTITY] for row in rows]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for repeat, itl, streams, start, tool in product(
        range(given.repeats),
        map(float, given.itl.split(",")),
        map(int, given.streams.split(",")),
        given.starts.split(","),
        chosen,
    ):
        if tool.name not in starts or [repeat, itl, streams, start, tool.name] in done:
            continue
        row = measure(
            tool,
            starts[tool.name],
            streams=streams,
            burst=start == "burst",
            timing=Timing(itl_s=itl / 1e3, events=given.events),
            tokenizer=given.tokenizer,
        )
        when = {"date": date.today().isoformat(), "load_average": os.getloadavg()[0]}
        rows.append({"repeat": repeat} | when | row)
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "command"}))
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
