"""Sessions and agents' tasks: how many came to their end, and how long each took."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from penstock.record import metrics
from penstock.record.run import Point
from penstock.record.steady import Window

COMPLETED = "completed"


def sessions(point: Point, window: Window) -> dict[str, Any] | None:
    """What became of the sessions that ended inside the window; None without sessions.

    `completed_per_s` is completed tasks per second. `ends` counts how they
    ended; `seconds` and `turns` are of the completed, from the first turn's
    schedule to the last answer's end. Those that had not ended when the load
    stopped are in no figure but `open`.
    """
    turns = defaultdict(list)
    for record in point.records:
        if record.session is not None and record.choice == 0:
            turns[record.session].append(record)
    if not turns:
        return None
    ends: Counter[str] = Counter()
    seconds, lengths, unended = [], [], 0
    for records in turns.values():
        records.sort(key=lambda record: record.turn)
        last = records[-1]
        if last.session_end is None or last.end_ns is None:
            unended += 1
        elif window.start_ns <= last.end_ns < window.end_ns:
            ends[last.session_end] += 1
            if last.session_end == COMPLETED:
                seconds.append((last.end_ns - records[0].sched_ns) / metrics.NS_PER_S)
                lengths.append(len(records))
    return {
        "completed_per_s": ends[COMPLETED] / window.seconds,
        "ends": dict(ends),
        "open": unended,
        "turns_mean": float(np.mean(lengths)) if lengths else None,
        "seconds_mean": float(np.mean(seconds)) if seconds else None,
        "seconds_p50": float(np.median(seconds)) if seconds else None,
    }
