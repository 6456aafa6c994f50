"""From the stamped pieces of a streamed answer to a record of it.

Runs when the stream is over, so that no parsing stands between the socket and
the clock. Understands the events of OpenAI-compatible servers: completions
and chat, reasoning and tool-call deltas, usage at the end or on every event,
token ids or logprobs in the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from tokenizers import Tokenizer

from penstock.meter.event import EventStream, LineTooLong
from penstock.record.record import Outcome, Record


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """The server's own count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None

    def text(self) -> str:
        content = self.content or ""
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        functions = [call.function for call in self.tool_calls or [] if call.function]
        calls = "".join((f.name or "") + (f.arguments or "") for f in functions)
        return (self.reasoning_content or self.reasoning or "") + content + calls


class _Logprobs(msgspec.Struct):
    tokens: list[Any] | None = None  # completions
    content: list[Any] | None = None  # chat


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    """An event that carried text or a token. Counts are None where it does not tell them."""

    at_ns: int
    text: str
    ids: int | None
    logprobs: int | None
    total: int | None  # output tokens so far, by the server's usage


class _Answer(msgspec.Struct):
    """A stream as read: `error` is None, or what broke the reading off."""

    events: list[_Event] = []
    usage: _Usage | None = None
    total: int = 0  # output tokens by the usage on the last event, if it has one
    finish_reason: str | None = None
    done: bool = False  # [DONE] came
    error: str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def read_answer(
    pieces: Sequence[tuple[int, bytes]],
    record: Record,
    tokenizer: Tokenizer | None = None,
    error: str | None = None,
) -> list[str]:
    """Fill in times, tokens, words and outcome of `record`; return what to note of it.

    `error` is what the connection already failed of, so that `pieces` is only
    what came before. A whole response can still fail: server_error,
    malformed_event, truncated, empty_answer.
    """
    answer = _read(pieces)
    events = answer.events
    record.finish_reason = answer.finish_reason
    if events:
        record.event_ns = [event.at_ns for event in events]
        record.first_ns, record.last_ns = events[0].at_ns, events[-1].at_ns
    error = error or answer.error
    if error is None and not answer.done and answer.finish_reason is None:
        error = "truncated: the stream ended with neither [DONE] nor a finish_reason"
    if error is None and not events:
        error = "empty_answer: no event carried output"
    if error is None:
        record.outcome = Outcome.FINISHED
        return _count(record, answer, tokenizer)
    record.outcome, record.error = Outcome.FAILED, error
    if events and (told := _told(events)) is not None:
        record.event_tokens, record.laid_by = told
        record.output_tokens, record.counted_by = sum(told[0]), told[1]
    return []


def _read(pieces: Sequence[tuple[int, bytes]]) -> _Answer:
    stream, answer = EventStream(), _Answer()
    try:
        for at_ns, piece in pieces:
            for data in stream.feed(piece):
                _take(answer, at_ns, data)
        for data in stream.close():
            _take(answer, pieces[-1][0], data)
    except (msgspec.DecodeError, LineTooLong, UnicodeDecodeError) as error:
        answer.error = f"malformed_event: {error}"
    return answer


def _take(answer: _Answer, at_ns: int, data: bytes) -> None:
    answer.done = answer.done or data.strip() == b"[DONE]"
    if answer.done or answer.error:
        return
    chunk = _decode(data)
    if chunk.error:
        answer.error = f"server_error: {brief(chunk.error)}"
    answer.usage = chunk.usage or answer.usage
    total = chunk.usage.completion_tokens if chunk.usage else None
    for choice in chunk.choices or ():
        answer.finish_reason = choice.finish_reason or answer.finish_reason
        text = choice.text or (choice.delta.text() if choice.delta else "")
        ids = len(choice.token_ids) if choice.token_ids is not None else None
        if text or ids or (total or 0) > answer.total:
            logprobs = choice.logprobs and (choice.logprobs.tokens or choice.logprobs.content)
            answer.events.append(_Event(at_ns, text, ids, len(logprobs or ()) or None, total))
            answer.total = total or 0


def _told(events: Sequence[_Event]) -> tuple[list[int], str] | None:
    """Tokens on each event as the events themselves tell, and which way."""
    totals = [e.total for e in events if e.total is not None]
    grown = [b - a for a, b in zip([0, *totals], totals, strict=False)]
    for name, counts in (
        ("event usage", grown if min(grown, default=0) >= 0 else []),
        ("token ids", [e.ids for e in events if e.ids is not None]),
        ("logprobs", [e.logprobs for e in events if e.logprobs is not None]),
    ):
        if len(counts) == len(events):
            return counts, name
    return None


def _count(record: Record, answer: _Answer, tokenizer: Tokenizer | None) -> list[str]:
    """Count the tokens and lay them on the events; returns caveats."""
    events, usage = answer.events, answer.usage
    text = "".join(event.text for event in events)
    record.words = len(text.split())
    if usage is not None:
        record.prompt_tokens = usage.prompt_tokens
        if usage.prompt_tokens_details is not None:
            record.cached_tokens = usage.prompt_tokens_details.cached_tokens
    local = _by_tokenizer(events, text, tokenizer) if tokenizer else None
    laid = _told(events) or local
    if usage is not None and usage.completion_tokens:
        record.output_tokens, record.counted_by = usage.completion_tokens, "server usage"
    elif laid is not None:
        record.output_tokens, record.counted_by = sum(laid[0]), laid[1]
    if record.output_tokens is None:
        return [_NO_COUNT]
    caveats = []
    counted = record.output_tokens
    if local is not None and abs(sum(local[0]) - counted) > max(2, 0.1 * counted):
        caveats.append(_LOCAL_DIFFERS)
    seen = len(events) if laid is None else sum(laid[0])
    # A final EOS that usage counts and no event carries lies on no event.
    eos = record.finish_reason == "stop" and counted - 1 == seen
    sent = counted - 1 if eos else counted
    if laid is None:
        record.event_tokens, record.laid_by = _evenly(sent, len(events)), "evenly"
        if sent != seen:
            caveats.append(_SPREAD)
    else:
        weights, record.laid_by = laid
        record.event_tokens = weights if sent == seen else _apportion(sent, weights)
        if sent != seen and record.laid_by != "local tokenizer":
            caveats.append(f"token counts disagree: {record.counted_by} against {record.laid_by}")
    return caveats


_NO_COUNT = (
    "no token count (no usage, no token ids): these answers' tokens/s are unknown; "
    "--tokenizer lets them be counted here"
)
_LOCAL_DIFFERS = (
    "the server's count and the local tokenizer's differ by more than a tenth "
    "(tokens without text, such as an ignored EOS, can be why)"
)
_SPREAD = (
    "events of several tokens that do not say how many: the first event is taken as one token, "
    "the others are spread evenly"
)


def _by_tokenizer(
    events: Sequence[_Event], text: str, tokenizer: Tokenizer
) -> tuple[list[int], str]:
    """A token belongs to the event that brought its last character."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    counts, token, end = [], 0, 0
    for event in events:
        end += len(event.text)
        before = token
        while token < len(offsets) and offsets[token][1] <= end:
            token += 1
        counts.append(token - before)
    counts[-1] += len(offsets) - token
    return counts, "local tokenizer"


def _evenly(tokens: int, events: int) -> list[int]:
    """One token on the first event, the others in equal shares on the rest."""
    if events == 1:
        return [tokens]
    rest, share = max(tokens - 1, 0), events - 1
    return [
        min(tokens, 1),
        *((i + 1) * rest // share - i * rest // share for i in range(share)),
    ]


def _apportion(tokens: int, weights: Sequence[int]) -> list[int]:
    """Whole tokens in proportion to the weights, summing to `tokens`."""
    total, running, given, shares = max(sum(weights), 1), 0, 0, []
    for weight in weights:
        running += weight
        upto = running * tokens // total
        shares.append(upto - given)
        given = upto
    shares[-1] += tokens - given
    return shares


def brief(error: Any) -> str:
    """The message of an OpenAI-style error, on one line."""
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200]
