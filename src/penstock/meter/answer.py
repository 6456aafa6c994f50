"""From the stamped pieces of an answer to a record of each of its choices.

Runs when the answer is over, so that no parsing stands between the socket and
the clock. Which fields servers use is in `dialect`, how tokens are found for
each event in `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from tokenizers import Tokenizer

from penstock.meter.dialect import (
    ABORTED,
    Chunk,
    Timings,
    Usage,
    brief,
    read_chunk,
    read_chunks,
    read_texts,
)
from penstock.meter.event import EventStream, LineTooLong
from penstock.meter.tokens import Event, believed, count, find_growth
from penstock.record.record import Outcome, Record

_ENDING = 2  # lines that may tell more than text: why the answer ended, its usage
_E = TypeVar("_E")

__all__ = ["Answer", "brief", "read_answer"]


class Answer(msgspec.Struct):
    """What came of a request: by choice, its record and what it said; and what to note of it.

    `texts` are what a user would read: without reasoning and tool calls.
    """

    records: list[Record]
    texts: list[str]
    notes: list[str]


class _Read(msgspec.Struct):
    """An answer as read: `error` is None, or what broke the reading off."""

    choices: int
    events: list[Event] = []
    totals: dict[int, int] = {}  # output tokens so far, by choice
    finish: dict[int, str] = {}
    usage: Usage | None = None
    usages: int = 0  # events that had one
    used: int = 0  # output tokens of all of those
    timings: Timings | None = None
    cached: int | None = None  # prompt tokens, where not in usage
    done: bool = False  # [DONE] came
    error: str | None = None


def read_answer(
    pieces: Sequence[tuple[int, bytes]],
    record: Record,
    tokenizer: Tokenizer | None = None,
    error: str | None = None,
    *,
    choices: int = 1,
    stream: bool = True,
) -> Answer:
    """Fill in times, tokens, words and outcome of `record` and of one for each further choice.

    `error` is what the connection already failed of, so that `pieces` is only
    what came before; after [DONE] it is only a note. A whole response can still
    fail: server_error, malformed_event, truncated, empty_answer. The request's
    prompt is counted once, on the first choice. A whole answer (`stream` false)
    has no first token: `first_ns` stays None.
    """
    read = _read_stream(pieces, choices, error is None) if stream else _read_whole(pieces, choices)
    notes = []
    if error and read.done and not read.error:
        notes.append(f"after [DONE] the connection failed: {error.split(':', 1)[0]}")
        error = None
    output = read.usage.completion_tokens if read.usage else None
    if choices > 1 and read.usages == choices:  # llama.cpp: one for each choice
        output = read.used
    find_growth(read.events, output)
    # A total that is on the last event only says nothing of when its tokens came.
    running = all(e.total is not None for e in read.events if e.said or e.unsaid)
    events: list[list[Event]] = [[] for _ in range(choices)]
    for event in read.events:
        if event.said or event.unsaid or event.ids or (running and (event.grown or 0) > 0):
            events[event.choice].append(event)
    records = [record, *(_sibling(record, choice) for choice in range(1, choices))]
    for r, own in zip(records, events, strict=True):
        _judge(r, own, read, read.error or error)
        if own and not stream:
            r.first_ns = None
    if record.outcome is Outcome.FINISHED:
        _count_prompt(record, read)
    notes += count(records, events, output, _hidden(read), tokenizer)
    texts = ["".join(event.said for event in own) for own in events]
    return Answer(records, texts, notes)


def _read_stream(pieces: Sequence[tuple[int, bytes]], choices: int, whole: bool) -> _Read:
    stream, read = EventStream(), _Read(choices)
    lines = _lines(pieces)
    texts = _decoded(read_texts, lines[:-_ENDING])
    if texts:
        read.events = [
            Event(at_ns, 0, text, "", None, None, None)
            for (at_ns, _), text in zip(pieces, texts, strict=False)
            if text
        ]
        read.totals[0] = 0
    chunks = _decoded(read_chunks, lines[len(texts) :])
    seen = len(texts) + len(chunks)
    for (at_ns, _), chunk in zip(pieces[len(texts) : seen], chunks, strict=True):
        _note(read, at_ns, chunk)
        if read.error:
            return read
    try:
        for at_ns, piece in pieces[seen:]:
            for data in stream.feed(piece):
                _take(read, at_ns, data)
            if read.done or read.error:
                return read
    except LineTooLong as error:
        read.error = f"malformed_event: {error}"
        return read
    # What a broken connection left of an event is no event.
    for data in stream.close() if whole else ():
        _take(read, pieces[-1][0], data)
        if read.error and read.error.startswith("malformed_event"):
            read.error = "truncated: the answer ended within an event"
    return read


def _lines(pieces: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The data of the first pieces, as many as are just one line of it and its end.

    So most servers send; decoded all at once, such events cost half as much.
    """
    lines = []
    for _, piece in pieces:
        if not (piece.startswith(b"data: {") and piece.endswith(b"}\n\n")):
            break
        lines.append(piece[6:-1])
    joined = b"".join(lines)
    return lines if joined.count(b"\n") == len(lines) and b"\r" not in joined else []


def _decoded(read: Callable[[bytes], list[_E]], lines: Sequence[bytes]) -> list[_E]:
    """All of the lines, or none: then others try, and say what is wrong."""
    try:
        return read(b"".join(lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _read_whole(pieces: Sequence[tuple[int, bytes]], choices: int) -> _Read:
    read = _Read(choices)
    if pieces:
        _take(read, pieces[-1][0], b"".join(piece for _, piece in pieces))
    return read


def _take(read: _Read, at_ns: int, data: bytes) -> None:
    if not data.startswith(b"{") and (end := data.strip()) in (b"", b"[DONE]"):
        read.done = read.done or bool(end)
        return
    if read.done or read.error:
        return
    try:
        chunk = read_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        read.error = f"malformed_event: {error}, in {brief(data[:80].decode('utf-8', 'replace'))}"
        return
    _note(read, at_ns, chunk)


def _note(read: _Read, at_ns: int, chunk: Chunk) -> None:
    if chunk.error or chunk.object == "error":
        read.error = f"server_error: {chunk.failure()}"
    usage, timings = chunk.usage, chunk.timings
    if usage is not None:
        read.usage = usage
        read.usages += 1
        read.used += usage.completion_tokens or 0
    read.timings = timings or read.timings
    # One count for several choices of one event tells nothing of each.
    alone = len(chunk.choices or ()) == 1
    for choice in chunk.choices or ():
        index = choice.index or 0
        if not 0 <= index < read.choices:
            read.error = f"malformed_event: choice {index} came, though {read.choices} were asked"
            return
        if choice.finish_reason:
            read.finish[index] = choice.finish_reason
        said, unsaid = choice.text or "", ""
        if delta := choice.delta or choice.message:
            said, unsaid = delta.said(), delta.unsaid()
        ids = len(choice.token_ids) if choice.token_ids is not None else None
        total = None
        if alone and usage is not None:
            total = usage.completion_tokens
        elif alone and timings is not None:
            total = timings.predicted_n
        if choice.meta_info is not None:
            total = choice.meta_info.completion_tokens
            read.cached = choice.meta_info.cached_tokens
        if said or unsaid or ids or (total or 0) > read.totals.get(index, 0):
            logprobs = choice.logprobs.count() if choice.logprobs else None
            read.events.append(Event(at_ns, index, said, unsaid, ids, logprobs, total))
            read.totals[index] = total or 0


def _sibling(record: Record, choice: int) -> Record:
    return Record(
        request_id=record.request_id,
        choice=choice,
        sched_ns=record.sched_ns,
        sent_ns=record.sent_ns,
        end_ns=record.end_ns,
        output_tokens_asked=record.output_tokens_asked,
    )


def _judge(record: Record, events: Sequence[Event], read: _Read, error: str | None) -> None:
    """Times and outcome of one choice."""
    record.finish_reason = finish = read.finish.get(record.choice)
    if events:
        record.event_ns = [event.at_ns for event in events]
        record.first_ns, record.last_ns = events[0].at_ns, events[-1].at_ns
    if error is None and finish in ABORTED:
        error = f"server_error: it gave up, with finish_reason {finish}"
    if error is None and not read.done and finish is None:
        error = "truncated: the answer ended with neither [DONE] nor a finish_reason"
    if error is None and not events:
        error = "empty_answer: no event carried output"
    record.outcome = Outcome.FINISHED if error is None else Outcome.FAILED
    record.error = error


def _count_prompt(record: Record, read: _Read) -> None:
    usage, timings = read.usage or Usage(), read.timings or Timings()
    record.prompt_tokens = believed(usage.prompt_tokens)
    details = usage.prompt_tokens_details
    told = (
        details.cached_tokens if details else None,
        usage.prompt_cache_hit_tokens,
        timings.cache_n,
        read.cached,
    )
    record.cached_tokens = next((n for n in map(believed, told) if n is not None), None)
    if record.prompt_tokens is None and timings.prompt_n is not None:
        record.prompt_tokens = believed(timings.prompt_n + (timings.cache_n or 0))


def _hidden(read: _Read) -> int:
    """Reasoning tokens that usage counts, though no event brought them."""
    details = read.usage.completion_tokens_details if read.usage else None
    if details is None or any(event.unsaid for event in read.events):
        return 0
    return believed(details.reasoning_tokens) or 0
