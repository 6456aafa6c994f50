"""Sessions and agents' tasks: how many came to their end, and how long each took."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from penstock.record import metrics
from penstock.record.record import Outcome, Record
from penstock.record.run import Point
from penstock.record.steady import Window

COMPLETED = "completed"


def sessions(point: Point, window: Window) -> dict[str, Any] | None:
    """What became of the sessions that ended inside the window; None without sessions.

    `completed_per_s` is completed tasks per second. `ends` counts how they
    ended; `seconds` and `turns` are of the completed, from the first turn's
    schedule to the last answer's end. Those that had not ended when the window
    closed are in no figure but `open`: whether they ended in the drain, were cut
    by the end of the run, or were waiting for their next turn. Those that ended
    before it opened are in none.
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
        end_ns = _end_ns(last)
        if end_ns is None or end_ns >= window.end_ns:
            unended += 1
        elif end_ns >= window.start_ns:
            ends[str(last.session_end)] += 1
            if last.session_end == COMPLETED:
                seconds.append((end_ns - records[0].sched_ns) / metrics.NS_PER_S)
                lengths.append(len(records))
    return {
        "completed_per_s": ends[COMPLETED] / window.seconds,
        "ends": dict(ends),
        "open": unended,
        "turns_mean": float(np.mean(lengths)) if lengths else None,
        "seconds_mean": float(np.mean(seconds)) if seconds else None,
        "seconds_p50": float(np.median(seconds)) if seconds else None,
    }


def _end_ns(last: Record) -> int | None:
    """When a session ended; None if it had not, or if only we ended it by cutting its request."""
    cut = last.outcome in (Outcome.CANCELLED, Outcome.UNFINISHED)
    return None if cut or last.session_end is None else last.end_ns
