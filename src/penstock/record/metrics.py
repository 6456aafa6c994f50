"""What the figures mean: pure functions from records to seconds, tokens and counts.

Definitions are those of docs/metrics.md. A metric that is undefined for a
request is None, never zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from penstock.record.record import Outcome, Record

NS_PER_S = 1e9


def finished(records: Iterable[Record]) -> list[Record]:
    """Only these are work."""
    return [r for r in records if r.outcome is Outcome.FINISHED]


def requests(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each request: one, or one for each of its choices."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.request_id, []).append(record)
    return list(found.values())


def finished_requests(records: Iterable[Record]) -> list[list[Record]]:
    """Requests all of whose choices finished."""
    return [r for r in requests(records) if len(finished(r)) == len(r)]


def scheduled_in(records: Iterable[Record], start_ns: int, end_ns: int) -> list[Record]:
    """Requests wanted within `[start_ns, end_ns)`, in the order in which they were wanted."""
    return sorted((r for r in records if start_ns <= r.sched_ns < end_ns), key=lambda r: r.sched_ns)


def _gap(later: int | None, earlier: int | None) -> float | None:
    return None if later is None or earlier is None else (later - earlier) / NS_PER_S


def ttft(record: Record) -> float | None:
    """Seconds from the last request byte sent to the first output-bearing event."""
    return _gap(record.first_ns, record.sent_ns)


def ttft_from_schedule(record: Record) -> float | None:
    """Seconds from when the workload wanted it sent to the first event: what a user waits."""
    return _gap(record.first_ns, record.sched_ns)


def e2e(record: Record) -> float | None:
    """Seconds from schedule to the last output-bearing event."""
    return _gap(record.last_ns, record.sched_ns)


def e2e_from_sent(record: Record) -> float | None:
    """Seconds from the last request byte sent to the last output-bearing event."""
    return _gap(record.last_ns, record.sent_ns)


def tpot(record: Record) -> float | None:
    """Seconds per output token after the first event.

    (last - first) / (tokens on events - tokens on the first event). None for
    answers of one event, and where the tokens are not known.
    """
    duration = _gap(record.last_ns, record.first_ns)
    later_tokens = sum(record.event_tokens[1:])
    return duration / later_tokens if duration and later_tokens > 0 else None


def itl(records: Iterable[Record]) -> list[float]:
    """All gaps between successive output-bearing events, in seconds.

    An event of several tokens contributes one gap; `tokens_per_event` tells.
    """
    return [
        (later - before) / NS_PER_S
        for r in records
        for before, later in itertools.pairwise(r.event_ns)
    ]


def tokens_per_event(records: Iterable[Record]) -> float | None:
    """Mean number of tokens on an event after the first; 1 means that ITL is per token."""
    tokens = [t for r in records for t in r.event_tokens[1:]]
    return float(np.mean(tokens)) if tokens else None


def words_per_token(records: Iterable[Record]) -> float | None:
    """Words in a token, measured on the output of these records; None where no text was seen."""
    words = tokens = 0
    for r in records:
        if r.output_tokens:
            words += r.words
            tokens += r.output_tokens
    return words / tokens if tokens and words else None


Arrivals = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def output_arrivals(records: Iterable[Record]) -> Arrivals:
    """When output tokens of finished requests arrived: times in ns, and tokens at each."""
    done = [r for r in finished(records) if len(r.event_tokens) == len(r.event_ns)]
    times = [t for r in done for t in r.event_ns]
    tokens = [k for r in done for k in r.event_tokens]
    return np.asarray(times, dtype=np.int64), np.asarray(tokens, dtype=np.int64)


def input_arrivals(records: Iterable[Record]) -> Arrivals:
    """Prompt tokens of finished requests, credited when their first event arrived."""
    done = [r for r in finished(records) if r.prompt_tokens is not None and r.first_ns is not None]
    return (
        np.asarray([r.first_ns for r in done], dtype=np.int64),
        np.asarray([r.prompt_tokens for r in done], dtype=np.int64),
    )


def request_arrivals(records: Iterable[Record]) -> Arrivals:
    """Finished requests, each credited once: when the last event of its last choice arrived."""
    done = finished_requests(records)
    ends = [[r.last_ns for r in group if r.last_ns is not None] for group in done]
    times = [max(each) for each in ends if each]
    return np.asarray(times, dtype=np.int64), np.ones(len(times), dtype=np.int64)


def rates(
    arrivals: Arrivals, start_ns: int, end_ns: int, slices: int = 1
) -> npt.NDArray[np.float64]:
    """Amount per second in each of `slices` equal parts of `[start_ns, end_ns)`."""
    times, amounts = arrivals
    # Relative to the start, so that float64 edges are exact to the nanosecond.
    inside = (times >= start_ns) & (times < end_ns)
    width = (end_ns - start_ns) / slices
    index = np.minimum((times[inside] - start_ns) // width, slices - 1).astype(np.int64)
    total = np.bincount(index, weights=amounts[inside], minlength=slices)
    return np.asarray(total * NS_PER_S / width, dtype=np.float64)


def wasted_tokens(records: Iterable[Record]) -> int:
    """Tokens that arrived for requests which then did not finish: cost without work."""
    return sum(sum(r.event_tokens) for r in records if r.outcome is not Outcome.FINISHED)


def errors_by_class(records: Sequence[Record]) -> dict[str, int]:
    """Failed requests by the class before the colon of `error`, most frequent first."""
    counts: dict[str, int] = {}
    for r in records:
        if r.outcome is Outcome.FAILED:
            name = (r.error or "unknown").split(":", 1)[0]
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
