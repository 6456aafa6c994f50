"""What guessing tokens ahead brought at an operating point, from the server's own counters.

The names are those of the series that `penstock.meter.scrape` keeps. A draft is
what was guessed for one sequence in one step; its guesses have positions from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from statistics import fmean
from typing import Any

from penstock.record.series import Series, at, grown
from penstock.record.steady import Window


def guesses(watched: Sequence[Series], window: Window) -> dict[str, Any] | None:
    """What became of guesses inside the window; None where none were made, or nobody told.

    `tokens_per_step` as that function has it. Shares: `accepted_share` of the drafted
    tokens; `time_share` of the window that drafting took. `by_position` has two of the
    drafts: `drafted`, those long enough to have a guess there, and `accepted`, those in
    which it came true. What the server does not tell is None, or an empty list.
    """
    start, end = window.start_ns, window.end_ns
    if not guessed(watched, start, end):
        return None
    drafted, accepted, seconds = (
        growth(watched, name, start, end) for name in ("drafted", "accepted", "drafting")
    )
    return {
        "tokens_per_step": tokens_per_step(watched, start, end),
        "accepted_share": accepted / drafted if accepted is not None and drafted else None,
        "time_share": None if seconds is None else seconds / window.seconds,
        "by_position": list(_by_position(watched, start, end)),
    }


def guessed(watched: Sequence[Series], start_ns: int, end_ns: int) -> bool:
    """Whether anything was guessed, as far as the server told."""
    told = _mean(watched, "tokens_per_step", start_ns, end_ns)
    return bool(growth(watched, "drafted", start_ns, end_ns) or told)


def tokens_per_step(watched: Sequence[Series], start_ns: int, end_ns: int) -> float | None:
    """Output tokens for each step that gave a sequence some, steps of each sequence counted.

    So 1 without guesses, however many sequences share a step. Where the server counts no
    such steps, they are its output tokens less the accepted ones: a step gives one token
    more than were accepted in it. Where it tells the figure itself, the mean of what it said.
    """
    told = _mean(watched, "tokens_per_step", start_ns, end_ns)
    tokens = growth(watched, "output_tokens", start_ns, end_ns)
    steps = growth(watched, "sequence_steps", start_ns, end_ns)
    accepted = growth(watched, "accepted", start_ns, end_ns)
    if steps is None and tokens is not None and accepted is not None:
        steps = tokens - accepted
    return tokens / steps if tokens is not None and steps and steps > 0 else told or None


def growth(
    watched: Sequence[Series], name: str, start_ns: int, end_ns: int, position: int | None = None
) -> float | None:
    """By how much the counter of that name grew; None if it was not watched throughout."""
    series = _find(watched, name, position)
    return None if series is None else grown(series, start_ns, end_ns)


def _by_position(
    watched: Sequence[Series], start_ns: int, end_ns: int
) -> Iterator[dict[str, float | None]]:
    drafts = growth(watched, "drafts", start_ns, end_ns)
    for position in count():
        made = growth(watched, "drafted_at", start_ns, end_ns, position)
        right = growth(watched, "accepted_at", start_ns, end_ns, position)
        if not drafts or right is None or made == 0:
            return
        yield {"drafted": None if made is None else made / drafts, "accepted": right / drafts}


def _mean(watched: Sequence[Series], name: str, start_ns: int, end_ns: int) -> float | None:
    """Of what a gauge said meanwhile, or just before and after."""
    series = _find(watched, name)
    if series is None:
        return None
    readings = zip(series.at_ns, series.values, strict=True)
    inside = [value for when, value in readings if start_ns <= when <= end_ns]
    return fmean(inside) if inside else at(series, start_ns)


def _find(watched: Sequence[Series], name: str, position: int | None = None) -> Series | None:
    return next((s for s in watched if s.name == name and s.position == position), None)
