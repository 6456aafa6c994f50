"""One record per choice: what happened to a request, in monotonic nanoseconds."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How a request ended. Only `FINISHED` counts as work."""

    FINISHED = "finished"
    CANCELLED = "cancelled"  # by us: a limit of the run or Ctrl-C
    FAILED = "failed"  # by the target or the network
    UNFINISHED = "unfinished"  # still running when the run was cut


class Record(msgspec.Struct, kw_only=True):
    """What happened to one choice of one request.

    Times are nanoseconds of `time.monotonic_ns` on the measuring machine (of
    virtual time for a simulated target), or None when that moment never came.
    `event_ns[i]` is the arrival of the i-th event that carried output and
    `event_tokens[i]` the tokens laid on it. `sum(event_tokens)` equals
    `output_tokens` whenever that count is known, or is one less: a final EOS
    that the target counted but never sent lies on no event.
    """

    request_id: str
    choice: int = 0
    outcome: Outcome = Outcome.UNFINISHED
    # None unless failed or cancelled; a class first, then detail: "http_429: queue full".
    error: str | None = None

    sched_ns: int
    sent_ns: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    end_ns: int | None = None
    event_ns: list[int] = []
    event_tokens: list[int] = []

    # Tokens: as asked by the workload, then as counted (None: unknown).
    prompt_tokens_asked: int | None = None
    output_tokens_asked: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    # Output tokens as counted a second way (by the events themselves, or by a local
    # tokenizer), to hold `output_tokens` against.
    recounted: int | None = None
    words: int = 0
    finish_reason: str | None = None
    counted_by: str | None = None  # who counted `output_tokens`: "server usage", "token ids", ...
    laid_by: str | None = None  # how `event_tokens` was found: "event usage", ..., "evenly"

    # Of a turn of a session: which, and on the last one how it ended: completed, given_up, broken.
    session: str | None = None
    turn: int = 0
    session_end: str | None = None

    # Of a request that was a task's: which, its sample, what was said, and the grade.
    task: str | None = None
    sample: int = 0
    text: str | None = None
    answer: str | None = None  # what was answered in the end, as votes are counted
    correct: bool | None = None  # None: not graded; an error or a cut answer is False
    wrong_why: str | None = None  # a class first: "wrong", "cut: ...", "error: reset", "time: ..."
