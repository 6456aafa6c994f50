"""Several repeats of one operating point as one: means over them, with Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from penstock.record.quality import over_repeats
from penstock.record.run import Load, Point
from penstock.record.stats import Interval, t_interval

RATES = ("output_throughput", "input_throughput", "request_throughput")
SPREADS = ("ttft", "ttft_from_schedule", "tpot", "itl", "e2e", "e2e_from_sent")
_COUNTS = ("requests", "completed", "cancelled", "unfinished", "wasted_tokens")


def grouped(points: Sequence[Point]) -> list[list[int]]:
    """Indices of the points that measure the same thing again, in order of first appearance.

    The same load with a `repeat` seen before opens an operating point of its own.
    """
    groups: dict[tuple[Load, int], list[int]] = {}
    seen: dict[tuple[Load, int], int] = {}
    for index, point in enumerate(points):
        key = (point.load, point.repeat)
        occurrence = seen[key] = seen.get(key, -1) + 1
        groups.setdefault((point.load, occurrence), []).append(index)
    return list(groups.values())


def merged(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One point of a summary from those of its repeats.

    A figure is the mean of the repeats' own, None where one has none; its
    interval is Student's t over them, which holds what differs from run to run
    and no interval within a run can see. `n` is the fewest samples of a repeat,
    counts are sums. The repeats themselves stay under `repeats`.
    """
    first = repeats[0]
    point = {
        **first,
        "conditions": {**first["conditions"], "repeats": len(repeats)},
        "window": {
            **first["window"],
            "seconds": _mean([r["window"]["seconds"] for r in repeats]),
            "steady": all(r["window"]["steady"] for r in repeats),
            "whole_run": any(r["window"]["whole_run"] for r in repeats),
            "reason": next((r["window"]["reason"] for r in repeats if r["window"]["reason"]), None),
        },
        "goodput": {
            "slo": first["goodput"]["slo"],
            **_means([r["goodput"] for r in repeats], but="slo"),
        },
        "errors": {
            "count": sum(r["errors"]["count"] for r in repeats),
            "by_class": _sums([r["errors"]["by_class"] for r in repeats]),
        },
        "tokens": {
            **first["tokens"],
            **{
                key: _sum([r["tokens"][key] for r in repeats])
                for key in ("output", "prompt", "cached")
            },
        },
        "limit": {
            **first["limit"],
            "fraction": _mean([r["limit"]["fraction"] for r in repeats]),
        },
        "quality": over_repeats([r["quality"] for r in repeats]),
        "sessions": _sessions([r["sessions"] for r in repeats]),
        "guesses": _guesses([r["guesses"] for r in repeats]),
        "power": _power([r["power"] for r in repeats]),
        "repeats": list(repeats),
    }
    for key in RATES:
        values = [r[key]["value"] for r in repeats]
        point[key] = {**_means([r[key] for r in repeats], but="unit ci95"), "ci95": _over(values)}
        point[key]["unit"] = first[key]["unit"]
    for key in SPREADS:
        point[key] = _spread([r[key] for r in repeats])
    for key in ("user_speed", "words_per_second"):
        point[key] = _means([r[key] for r in repeats])
    for key in _COUNTS:
        point[key] = sum(r[key] for r in repeats)
    return point


def _sessions(repeats: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [r for r in repeats if r is not None]
    if not known:
        return None
    return {
        **_means(known, but="ends open"),
        "ends": _sums([r["ends"] for r in known]),
        "open": sum(r["open"] for r in known),
    }


def _power(repeats: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [r for r in repeats if r is not None]
    return {**known[0], **_means(known, but="of")} if known else None


def _guesses(repeats: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [r for r in repeats if r is not None]
    if not known:
        return None
    # In a repeat whose drafts were shorter there are none at the last positions.
    columns = zip_longest(
        *(r["by_position"] for r in known), fillvalue={"drafted": 0.0, "accepted": 0.0}
    )
    return {
        **_means(known, but="by_position"),
        "by_position": [_means(column) for column in columns],
    }


def _spread(spreads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = spreads[0]
    figures = {name: [s[name] for s in spreads] for name in first["intervals"]}
    intervals = {name: _over(values) for name, values in figures.items()}
    return {
        **first,
        **{name: _mean(values) for name, values in figures.items()},
        "n": min(s["n"] for s in spreads),
        "intervals": intervals,
        "ci95": intervals["mean"],
    }


def _over(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return t_interval(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _means(parts: Sequence[dict[str, Any]], but: str = "") -> dict[str, Any]:
    names = [name for name in parts[0] if name not in but.split()]
    return {name: _mean([part[name] for part in parts]) for name in names}


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for part in counts for name in part)
    return {name: sum(part.get(name, 0) for part in counts) for name in names}
