"""The meter's own error: how late it sees an event, and what TTFT that makes.

A scripted server in a process of its own stamps every event when it writes it,
on the same machine's monotonic clock. The meter's error is its stamp minus the
server's. Streams start all at once (burst) or evenly spread (staggered), 50 ms
between events. The server is Python too, so a busy machine delays both: rows
in which its own events were late say so in `server_late_ms_p99`.

    python -m benchmarks.meter_error
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.meter.machine import describe
from penstock.record.record import Record
from penstock.record.run import Load
from penstock.workload.plan import Ask, Plan

SERVER = Path(__file__).parents[1] / "tests" / "meter" / "scripted.py"
GAP_S = 0.05
EVENTS = 40


def plan(streams: int, staggered: bool) -> Plan:
    """Three answers for each stream."""
    spacing = (EVENTS * GAP_S) / streams
    asks = [
        Ask(
            id=str(i),
            content=f"p{i}",
            prompt_tokens=1,
            output_tokens=EVENTS,
            at_s=i * spacing if staggered else None,
        )
        for i in range(3 * streams)
    ]
    load = Load(kind="open", rate=1 / spacing)
    if not staggered:
        load = Load(kind="closed", concurrency=streams)
    return Plan(load=load, asks=asks, warmup=0)


async def measure(url: str, streams: int, staggered: bool) -> dict[str, Any]:
    """One row of the table."""
    target = await HttpTarget.open(url)
    drive = Drive(target, plan(streams, staggered), Limits(duration_s=60))
    cpu = time.process_time()
    await drive.run()
    cpu = time.process_time() - cpu
    stamps = json.loads((await target.client.get("/stamps")).body)
    await target.close()
    first, every, gaps, server = [], [], [], []
    for record in drive.records:
        read, *written = stamps[f"p{record.request_id}"]
        late = np.subtract(record.event_ns, written) * 1e-6
        first.append(late[0])
        every += late.tolist()
        gaps += np.abs(np.diff(record.event_ns) - np.diff(written)).tolist()
        server += [(written[0] - read) * 1e-6 - GAP_S * 1e3]
    return {
        "streams": streams,
        "start": "staggered" if staggered else "burst",
        "ttft_error_ms": spread(first),
        "event_error_ms": spread(every),
        "gap_error_ms": spread([gap * 1e-6 for gap in gaps]),
        "server_late_ms_p99": round(float(np.quantile(server, 0.99)), 3),
        "client_cpu_s_per_1000_events": round(1000 * cpu / sum(map(events, drive.records)), 4),
        "failed": drive.failed,
    }


def events(record: Record) -> int:
    """Events of one answer."""
    return len(record.event_ns)


def spread(values: list[float]) -> dict[str, float]:
    """Mean, median and 99th percentile of absolute values."""
    size = np.abs(values)
    p50, p99 = np.quantile(size, [0.5, 0.99])
    return {
        "mean": round(float(size.mean()), 3),
        "p50": round(float(p50), 3),
        "p99": round(float(p99), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", default="1,16,100")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    script = json.dumps({"ttft_s": GAP_S, "itl_s": GAP_S, "events": EVENTS})
    rows = []
    for streams in map(int, given.streams.split(",")):
        for staggered in (True, False):
            command = [sys.executable, str(SERVER), script]
            server = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                assert server.stdout is not None
                url = json.loads(server.stdout.readline())["url"]
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    rows.append(runner.run(measure(url, streams, staggered)))
            finally:
                server.terminate()
                server.wait()
    result = {
        "conditions": {
            "date": date.today().isoformat(),
            "hardware": describe(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "gap_ms": GAP_S * 1e3,
            "events": EVENTS,
        },
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
