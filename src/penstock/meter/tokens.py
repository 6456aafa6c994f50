"""How many tokens an answer has, and how many of them each event carried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

import msgspec
from tokenizers import Tokenizer

from penstock.record.record import Outcome, Record

MOST = 2**31 - 1  # tokens; a count beyond this is none


class Event(msgspec.Struct, gc=False):
    """An event that carried output of one choice. Counts are None where it does not tell them."""

    at_ns: int
    choice: int
    said: str
    unsaid: str  # reasoning, tool calls
    ids: int | None
    logprobs: int | None
    total: int | None  # output tokens so far, by the server
    grown: int | None = None  # by how many that is more than before


Laid = tuple[list[int], str]  # tokens on each event, and how they were found


def believed(count: int | None) -> int | None:
    """A count, unless it cannot be one."""
    return count if count is not None and 0 <= count <= MOST else None


def find_growth(events: Sequence[Event], usage_total: int | None) -> None:
    """Set `grown` from the running totals.

    With several choices, some servers count on each event the tokens of its
    choice (vLLM, llama.cpp), others those of all choices. The latter never
    fall, end at the request's total, and take more values than a choice has events.
    """
    totals = [event.total for event in events if event.total is not None]
    if not totals:
        return
    by_choice = Counter(event.choice for event in events)
    shared = (
        len(by_choice) > 1
        and totals[-1] == usage_total
        and totals == sorted(totals)
        and len(set(totals)) > max(by_choice.values())
    )
    before: dict[int, int] = {}
    for event in events:
        if event.total is not None:
            counted = 0 if shared else event.choice
            event.grown = event.total - before.get(counted, 0)
            before[counted] = event.total


def count(
    records: Sequence[Record],
    events: Sequence[Sequence[Event]],
    usage: int | None,
    hidden: int,
    tokenizer: Tokenizer | None,
) -> list[str]:
    """Count each choice's tokens and lay them on its events; returns caveats.

    `usage` is the server's count for all choices together, `hidden` how many of
    those tokens it never sent.
    """
    notes: list[str] = []
    if usage is not None and believed(usage) is None:
        notes.append("the server's usage cannot be a count and was not believed")
    laid = [told(own) if own else None for own in events]
    shares: Sequence[int | None] = [None] * len(records)
    if believed(usage):
        shares, divided = _share(usage or 0, records, events, laid)
        notes += [divided] if divided else []
    for record, own, way, share in zip(records, events, laid, shares, strict=True):
        if not own:
            continue
        record.words = len("".join([event.unsaid + event.said for event in own]).split())
        if record.outcome is Outcome.FINISHED:
            notes += _lay(record, own, way, share, hidden=hidden, tokenizer=tokenizer)
        elif way is not None:
            record.event_tokens, record.laid_by = way
            record.output_tokens, record.counted_by = sum(way[0]), way[1]
    return list(dict.fromkeys(notes))


def _share(
    usage: int,
    records: Sequence[Record],
    events: Sequence[Sequence[Event]],
    laid: Sequence[Laid | None],
) -> tuple[list[int], str | None]:
    """Divide the request's tokens among its choices; also what to say of that."""
    if len(records) == 1:
        return [usage], None
    known = [sum(way[0]) if way else 0 for way in laid]
    for eos in (0, 1):  # counted for a choice that stopped, though no event carries it
        exact = [n + eos * (r.finish_reason == "stop") for n, r in zip(known, records, strict=True)]
        if sum(exact) == usage:
            return exact, None
    return apportion(usage, [len(own) for own in events]), _DIVIDED


def _lay(
    record: Record,
    events: Sequence[Event],
    way: Laid | None,
    share: int | None,
    *,
    hidden: int,
    tokenizer: Tokenizer | None,
) -> list[str]:
    """Settle one choice's count, with `share` its part of the server's; returns caveats."""
    local = by_tokenizer(events, tokenizer) if tokenizer else None
    way = way or local
    if share:
        record.output_tokens, record.counted_by = share, "server usage"
    elif way is not None:
        record.output_tokens, record.counted_by = sum(way[0]), way[1]
    counted = record.output_tokens
    if counted is None:
        return [_NO_COUNT]
    caveats = []
    if local is not None and abs(sum(local[0]) - (counted - hidden)) > max(2, 0.1 * counted):
        caveats.append(_LOCAL_DIFFERS)
    seen = len(events) if way is None else sum(way[0])
    record.recounted = None if way is None else seen + (hidden if seen != counted else 0)
    sent = counted
    if 0 < hidden < counted and seen != counted:
        sent -= hidden
        caveats.append(_HIDDEN)
    # A final EOS that usage counts and no event carries lies on no event.
    if record.finish_reason == "stop" and sent - 1 == seen:
        sent -= 1
    if way is None:
        record.event_tokens, record.laid_by = evenly(sent, len(events)), "evenly"
        if sent != seen and len(events) > 1:
            caveats.append(_SPREAD)
    else:
        weights, record.laid_by = way
        record.event_tokens = weights if sent == seen else apportion(sent, weights)
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
    "events and tokens differ in number, and no event says how many tokens it brought: "
    "the first event is taken as one token, the others are spread evenly"
)
_DIVIDED = (
    "the server counts the tokens of all choices together: they are divided among the choices "
    "in proportion to their events"
)
_HIDDEN = "reasoning tokens were counted and never sent: they lie on no event"


def told(events: Sequence[Event]) -> Laid | None:
    """Tokens on each event as the events themselves tell, and which way."""
    for name, field in (
        ("event usage", attrgetter("grown")),
        ("token ids", attrgetter("ids")),
        ("logprobs", attrgetter("logprobs")),
    ):
        if field(events[0]) is None:
            continue
        known = [count for count in map(field, events) if count is not None and count >= 0]
        if len(known) == len(events) and 0 < sum(known) <= MOST:
            return known, name
    return None


def by_tokenizer(events: Sequence[Event], tokenizer: Tokenizer) -> Laid:
    """A token belongs to the event that brought its last character."""
    texts = [event.unsaid + event.said for event in events]
    offsets = tokenizer.encode("".join(texts), add_special_tokens=False).offsets
    counts, token, end = [], 0, 0
    for text in texts:
        end += len(text)
        before = token
        while token < len(offsets) and offsets[token][1] <= end:
            token += 1
        counts.append(token - before)
    counts[-1] += len(offsets) - token
    return counts, "local tokenizer"


def evenly(tokens: int, events: int) -> list[int]:
    """One token on the first event, the others in equal shares on the rest."""
    if tokens == events:
        return [1] * events
    if events == 1:
        return [tokens]
    rest, share = max(tokens - 1, 0), events - 1
    return [
        min(tokens, 1),
        *((i + 1) * rest // share - i * rest // share for i in range(share)),
    ]


def apportion(tokens: int, weights: Sequence[int]) -> list[int]:
    """Whole tokens in proportion to the weights, summing to `tokens`."""
    total, running, given, shares = max(sum(weights), 1), 0, 0, []
    for weight in weights:
        running += weight
        upto = running * tokens // total
        shares.append(upto - given)
        given = upto
    shares[-1] += tokens - given
    return shares
