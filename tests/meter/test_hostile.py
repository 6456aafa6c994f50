"""Whatever a server does, the answer is the right figure or a classified error.

No crash, no hang, bounded memory; and the request after it is none the worse.
"""

import asyncio
import gzip

import pytest

from penstock.meter import client
from penstock.meter.driver import Drive, Limits
from penstock.meter.http import HttpTarget
from penstock.record.record import Outcome, Record
from penstock.record.run import Load
from penstock.workload.plan import Ask, Plan
from tests.meter.raw import (
    CHUNKED,
    DONE,
    END,
    GOOD,
    SSE,
    TO_CLOSE,
    Do,
    Drip,
    Endless,
    chunk,
    chunked,
    event,
    page,
    playing,
    sized,
    sse,
    usage,
    words,
)

TIMEOUT_S = 3.0  # of a request: what hangs ends by it, and nothing else should


async def ask(target, prompt="hostile"):
    record = Record(request_id="1", sched_ns=0)
    reply = await target.send(
        Ask(id="1", content=prompt, prompt_tokens=None, output_tokens=4), record
    )
    return record, reply.caveats


async def survive(*steps, timeout_s=TIMEOUT_S):
    """What came of a hostile request, when the next one had ended well."""
    async with asyncio.timeout(timeout_s + 30), playing({"hostile": steps}) as server:
        target = await HttpTarget.open(server.url, timeout_s=timeout_s)
        record, notes = await ask(target)
        after, _ = await ask(target, "kind")
        await target.close()
    assert after.outcome is Outcome.FINISHED, after.error
    assert (after.output_tokens, after.event_tokens) == (4, [1, 1, 1, 1])
    assert record.end_ns is not None
    return record, notes, server


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
LOGPROBS = {"tokens": ["a"], "token_logprobs": [-1.0]}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n"


def every(count=4):
    """Usage on every event."""
    return [
        {**w, "usage": {"prompt_tokens": 7, "completion_tokens": i}}
        for i, w in enumerate(words(count), 1)
    ]


def deltas(*given):
    """Chat events, the last of which finishes."""
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    return [*({"choices": [{"delta": delta}]} for delta in given), last]


def call(**function):
    return {"tool_calls": [{"index": 0, "function": function}]}


# What is odd, and yet an answer of four tokens on four events.
FOUR_TOKENS = {
    "as it should be": [chunked(*words(), usage()), Do.KEEP],
    "CRLF": [CHUNKED, chunk(GOOD.replace(b"\n", b"\r\n")), END, Do.KEEP],
    "CR": [CHUNKED, chunk(GOOD.replace(b"\n", b"\r")), END, Do.KEEP],
    "comments": [CHUNKED, chunk(b": hi\n\n" + GOOD.replace(b"data", b":\ndata")), END, Do.KEEP],
    "BOM": [CHUNKED, chunk(b"\xef\xbb\xbf" + GOOD), END, Do.KEEP],
    "no space after data:": [CHUNKED, chunk(GOOD.replace(b"data: ", b"data:")), END, Do.KEEP],
    "other fields": [
        CHUNKED,
        chunk(GOOD.replace(b"data: ", b"event: x\nid: 1\nretry: 9\nodd\ndata: ")),
        END,
        Do.KEEP,
    ],
    "an empty first event": [CHUNKED, chunk(b"data:\n\ndata\n\n" + GOOD), END, Do.KEEP],
    "a role-only first event": [chunked(ROLE, *words(), usage()), Do.KEEP],
    "events of no text": [
        chunked({"choices": [{"text": ""}]}, *words(), {"choices": [{"text": None}]}, usage()),
        Do.KEEP,
    ],
    "choices null, missing, empty": [
        chunked({"choices": None}, {}, {"choices": []}, *words(), usage()),
        Do.KEEP,
    ],
    "an event as lines of data": [
        CHUNKED,
        chunk(GOOD.replace(b'"choices"', b'\ndata: "choices"')),
        END,
        Do.KEEP,
    ],
    "a byte at a time": [Drip(chunked(*words(), usage())), Do.KEEP],
    "a byte a chunk": [
        CHUNKED + b"".join(chunk(GOOD[i : i + 1]) for i in range(len(GOOD))) + END,
        Do.KEEP,
    ],
    "cut within a character": [
        CHUNKED,
        chunk(event({"choices": [{"text": "é"}]})[:-6]),
        chunk(event({"choices": [{"text": "é"}]})[-6:]),
        chunk(sse(*words(3), usage())),
        END,
        Do.KEEP,
    ],
    "all in one segment": [chunked(*words(), usage()), Do.KEEP],
    "HTTP/1.0, ended by closing": [
        TO_CLOSE.replace(b"HTTP/1.1", b"HTTP/1.0") + GOOD,
        Do.CLOSE,
    ],
    "ended by closing": [TO_CLOSE + GOOD, Do.CLOSE],
    "a length": [sized(GOOD), Do.KEEP],
    "connection: close, and open": [
        CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunk(GOOD) + END,
        Do.HANG,
    ],
    "100 Continue": [CONTINUE + chunked(*words(), usage()), Do.KEEP],
    "103 Early Hints": [HINTS, chunked(*words(), usage()), Do.KEEP],
    "closed when idle": [chunked(*words(), usage()), Do.CLOSE],
    "reset when idle": [chunked(*words(), usage()), Do.RESET],
    "no [DONE]": [chunked(*words(), usage(), done=False), Do.KEEP],
    "no finish_reason": [chunked(*words(finish=None), usage()), Do.KEEP],
    "no empty line at the end": [
        CHUNKED + chunk(sse(*words(), usage(), done=False)[:-1]) + END,
        Do.KEEP,
    ],
    "events after [DONE]": [chunked(*words(), usage(), b"[DONE]", *words()), Do.KEEP],
    "garbage after [DONE]": [CHUNKED + chunk(GOOD + b"\x00{garbage\n\n") + END, Do.KEEP],
    "garbage after the end": [chunked(*words(), usage()) + b"GARBAGE\r\n\r\n", Do.CLOSE],
    "a second answer, unasked": [
        chunked(*words(), usage()) + chunked(*words(2), usage(2)),
        Do.KEEP,
    ],
    "half a second answer": [chunked(*words(), usage()) + CHUNKED[:30], Do.HANG],
    "hangs after [DONE]": [CHUNKED + chunk(GOOD), Do.HANG],
    "hangs after a [DONE] in two pieces": [
        CHUNKED + chunk(GOOD[:-6]),
        chunk(GOOD[-6:]),
        Do.HANG,
    ],
    "breaks off after [DONE]": [CHUNKED + chunk(GOOD), Do.CLOSE],
    "resets after [DONE]": [CHUNKED + chunk(GOOD), Do.RESET],
    "more length than body": [sized(GOOD, len(GOOD) + 99), Do.CLOSE],
    "a broken chunk after [DONE]": [CHUNKED + chunk(GOOD) + b"zz\r\n", Do.CLOSE],
    "half-closed": [CHUNKED + chunk(GOOD) + END, Do.HALF_CLOSE, Do.HANG],
    "chunk extensions, trailers": [
        CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(GOOD), GOOD),
        Do.KEEP,
    ],
    "headers of odd bytes": [
        SSE + b"x-odd: \xff\xfe\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(GOOD) + END,
        Do.KEEP,
    ],
    "lower case, no reason": [
        b"HTTP/1.1 200\r\ncontent-type:text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding:chunked\r\n\r\n" + chunk(GOOD) + END,
        Do.KEEP,
    ],
    "no content type": [b"HTTP/1.1 200 OK\r\n\r\n" + GOOD, Do.CLOSE],
    "keys twice": [chunked(*words(), b'{"choices": [], "choices": null}', usage()), Do.KEEP],
    "fields nobody knows": [chunked(*words(x={"y": [1e300, None, -0.0]}), usage()), Do.KEEP],
    "usage null on the way": [chunked(*words(usage=None), usage()), Do.KEEP],
    "usage on every event": [chunked(*every()), Do.KEEP],
    "usage twice": [chunked(*words(), usage(), usage()), Do.KEEP],
    "escaped NUL": [
        chunked({"choices": [{"text": "a\0b"}]}, *words(3), usage()),
        Do.KEEP,
    ],
    "reasoning": [
        chunked(
            *deltas(
                {"reasoning_content": "a"}, {"reasoning": "b"}, {"content": "c"}, {"content": "d"}
            ),
            usage(),
        ),
        Do.KEEP,
    ],
    "tool calls": [
        chunked(
            *deltas(
                call(name="f", arguments=""), call(arguments="{"), call(arguments="}"), call(name=1)
            )[:3],
            *deltas({"tool_calls": {"function": {"name": "g", "arguments": {"a": 1}}}}),
            usage(),
        ),
        Do.KEEP,
    ],
    "parts of content": [
        chunked(
            *deltas(
                {"content": [{"type": "text", "text": "a"}]},
                {"content": [{"type": "thinking", "thinking": [{"text": "b"}]}]},
                {"content": "c"},
                {"function_call": {"name": "f"}},
            ),
            usage(),
        ),
        Do.KEEP,
    ],
    "llama.cpp's timings instead of usage": [
        chunked(*({**w, "timings": {"predicted_n": i}} for i, w in enumerate(words(), 1))),
        Do.KEEP,
    ],
    "log probabilities instead of usage": [
        chunked(*({"choices": [{**w["choices"][0], "logprobs": LOGPROBS}]} for w in words())),
        Do.KEEP,
    ],
}


@pytest.mark.parametrize("name", FOUR_TOKENS)
async def test_odd_and_yet_four_tokens_on_four_events(name):
    record, _, _ = await survive(*FOUR_TOKENS[name])
    assert record.outcome is Outcome.FINISHED, record.error
    assert record.output_tokens == 4
    assert record.event_tokens == [1, 1, 1, 1]
    assert record.sent_ns <= record.first_ns <= record.last_ns <= record.end_ns


IDS = [{"choices": [{"text": "ab", "token_ids": [1, 2], "finish_reason": "length"}]}] * 2
# Answers of other counts: events, tokens on each of them, tokens, and what is said of it.
COUNTED = {
    "several tokens an event": ([chunked(*IDS)], [2, 2], 4, ""),
    "several tokens an event, untold": ([chunked(*words(), usage(10))], [1, 3, 3, 3], 10, "spread"),
    "a token over several events": ([chunked(*words(), usage(2))], [1, 0, 0, 1], 2, "spread"),
    "usage that differs from token ids": ([chunked(*IDS, usage(8))], [4, 4], 8, "disagree"),
    "no usage": ([chunked(*words())], [], None, "no token count"),
    "usage of nothing": ([chunked(*words(), {"usage": {}})], [], None, "no token count"),
    "usage of zero": ([chunked(*words(), usage(0))], [], None, "no token count"),
    "usage below zero": ([chunked(*words(), usage(-4))], [], None, "not believed"),
    "usage beyond reason": ([chunked(*words(), usage(10**30))], [], None, "not believed"),
    "ids beside usage below zero": ([chunked(*IDS, usage(-4))], [2, 2], 4, "not believed"),
    "usage that goes back": (
        [chunked(*reversed(every(2)), *every(2)[1:], usage(3))],
        [1, 1, 1],
        3,
        "",
    ),
    "[DONE] before usage": ([chunked(*words(), b"[DONE]", usage())], [], None, "no token count"),
    "an EOS that is counted, not sent": (
        [chunked(*words(finish="stop"), usage(5))],
        [1, 1, 1, 1],
        5,
        "",
    ),
    "reasoning that is counted, not sent": (
        [chunked(*words(), usage(104, completion_tokens_details={"reasoning_tokens": 100}))],
        [1, 1, 1, 1],
        104,
        "never sent",
    ),
    "a line of a megabyte": (
        [chunked({"choices": [{"text": "x" * 2**20, "finish_reason": "stop"}]}, usage(9))],
        [9],
        9,
        "",
    ),
    "twenty thousand tiny events": (
        [chunked(*words(20_000), usage(20_000))],
        [1] * 20_000,
        20_000,
        "",
    ),
}


@pytest.mark.parametrize("name", COUNTED)
async def test_counts_are_right_or_said_to_be_doubtful(name):
    steps, event_tokens, tokens, note = COUNTED[name]
    record, notes, _ = await survive(*steps, Do.KEEP)
    assert record.outcome is Outcome.FINISHED, record.error
    assert record.output_tokens == tokens
    assert record.event_tokens == event_tokens
    assert note in "; ".join(notes)
    assert bool(note) == bool(notes)


def nested(depth):
    return b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"


def failing(value, *before):
    """Some events, then this one."""
    return [CHUNKED + b"".join(chunk(event(v)) for v in [*before, value]) + chunk(DONE) + END]


HTML = b"<html><h1>502 Bad\nGateway</h1></html>"
ERRORS = {
    # connection
    "closes at once": ([Do.CLOSE], "early_close"),
    "resets at once": ([Do.RESET], "reset"),
    "half a head": ([CHUNKED[:30], Do.CLOSE], "early_close"),
    "a reset within the head": ([CHUNKED[:30], Do.RESET], "reset"),
    "closed after the head": ([CHUNKED, Do.CLOSE], "early_close"),
    "closed after 100": ([CONTINUE, Do.CLOSE], "early_close"),
    "closed within a chunk": ([CHUNKED + chunk(GOOD)[:99], Do.CLOSE], "early_close"),
    "reset between events": ([CHUNKED + chunk(sse(*words(2), done=False)), Do.RESET], "reset"),
    "half-closed within the stream": (
        [CHUNKED + chunk(sse(*words(2), done=False)), Do.HALF_CLOSE, Do.HANG],
        "early_close",
    ),
    "closed within an event": ([TO_CLOSE + GOOD[:-40], Do.CLOSE], "truncated"),
    "closed between events": (
        [TO_CLOSE + sse(*words(finish=None), done=False), Do.CLOSE],
        "truncated",
    ),
    # time
    "says nothing": ([Do.HANG], "timeout"),
    "slow headers": ([Drip(SSE + b"x: " + b"y" * 5000)], "timeout"),
    "stalls within the head": ([CHUNKED[:30], Do.HANG], "timeout"),
    "stalls after the head": ([CHUNKED, Do.HANG], "timeout"),
    "stalls within the stream": ([CHUNKED + chunk(sse(*words(2), done=False)), Do.HANG], "timeout"),
    "stalls within a chunk": ([CHUNKED + chunk(GOOD)[:99], Do.HANG], "timeout"),
    # size
    "endless events": (
        [CHUNKED, Endless(chunk(sse(*words(finish=None) * 20, done=False)))],
        "too_large",
    ),
    "endless comments": ([CHUNKED, Endless(chunk(b": ping\n\n" * 200))], "too_large"),
    "an endless line": ([CHUNKED, Endless(chunk(b"x" * 5000))], "too_large"),
    "endless tiny chunks": ([CHUNKED, Endless(chunk(b"x") * 500)], "too_large"),
    "endless headers": ([SSE, Endless(b"x: y\r\n" * 500)], "too_large"),
    "an endless header": ([SSE + b"x: ", Endless(b"y" * 5000)], "too_large"),
    "endless hints": ([Endless(HINTS * 50)], "too_large"),
    # HTTP
    "no HTTP": ([b"\x00\x01 hello\r\n\r\n", Do.HANG], "malformed_http"),
    "HTTP/2": ([b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, Do.HANG], "malformed_http"),
    "a chunk size that is none": ([CHUNKED + b"zz\r\n" + GOOD, Do.HANG], "malformed_http"),
    "a chunk size below zero": ([CHUNKED + b"-5\r\n" + GOOD, Do.HANG], "malformed_http"),
    "a chunk longer than said": ([CHUNKED + b"5\r\n" + GOOD, Do.HANG], "malformed_http"),
    "length and chunks": (
        [SSE + b"Content-Length: 5\r\n" + CHUNKED[len(SSE) :] + chunk(GOOD), Do.HANG],
        "malformed_http",
    ),
    "two lengths": (
        [SSE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + GOOD, Do.HANG],
        "malformed_http",
    ),
    "another protocol": (
        [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbytes",
            Do.HANG,
        ],
        "malformed_http",
    ),
    "less length than body": ([sized(GOOD, len(GOOD) - 40), Do.CLOSE], "truncated"),
    # status and kind
    "204": ([b"HTTP/1.1 204 No Content\r\n\r\n", Do.KEEP], "http_204"),
    "a redirect": (
        [page(302, b"", Location="http://127.0.0.1:9/"), Do.KEEP],
        "http_302:  (to http://127.0.0.1:9/)",
    ),
    "401": ([page(401, b'{"error": {"message": "no key"}}'), Do.KEEP], "http_401: no key"),
    "403": ([page(403, b'{"detail": "not you"}'), Do.KEEP], "http_403: not you"),
    "404": ([page(404, b"not found", "text/plain"), Do.KEEP], "http_404: not found"),
    "413": ([page(413, b""), Do.CLOSE], "http_413"),
    "429 with Retry-After": (
        [page(429, b'{"error": "queue full"}', Retry_After="3"), Do.KEEP],
        "http_429: queue full (retry after 3)",
    ),
    "500, bytes": ([page(500, b"\xff\xfe\x00"), Do.KEEP], "http_500"),
    "500, deep": ([page(500, nested(50_000)), Do.KEEP], "http_500"),
    "502, a page": (
        [page(502, HTML, "text/html"), Do.CLOSE],
        "http_502: <html><h1>502 Bad Gateway",
    ),
    "503, no end": ([b"HTTP/1.1 503 X\r\n\r\nbusy", Do.HANG], "http_503: busy"),
    "200, a page": ([page(200, HTML, "text/html; charset=utf-8"), Do.KEEP], "not_a_stream"),
    "200, not streamed": ([page(200, b'{"choices": [{"text": "w"}]}'), Do.KEEP], "not_a_stream"),
    "200, lines of JSON": (
        [page(200, b'{"done": true}\n', "application/x-ndjson"), Do.KEEP],
        "not_a_stream",
    ),
    "gzip": ([SSE + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(GOOD), Do.CLOSE], "encoded"),
    # events
    "invalid UTF-8": (
        failing(b'{"choices": [{"text": "\xff\xfe"}]}', *words(2)),
        "malformed_event",
    ),
    "half a surrogate": (failing(b'{"choices": [{"text": "\\ud83d"}]}'), "malformed_event"),
    "NUL": (failing(b'{"choices": [{"text": "a\x00"}]}'), "malformed_event"),
    "NUL between events": ([CHUNKED + chunk(event(b"\x00") + GOOD) + END], "malformed_event"),
    "half of JSON": (failing(b'{"choices": ['), "malformed_event"),
    "a list": (failing(b"[1, 2]"), "malformed_event"),
    "choices of another kind": (failing(b'{"choices": 5}'), "malformed_event"),
    "a choice that is null": (failing(b'{"choices": [null]}'), "malformed_event"),
    "text that is a number": (failing(b'{"choices": [{"text": 5}]}'), "malformed_event"),
    "NaN": (failing(b'{"choices": [], "x": NaN}'), "malformed_event"),
    "deep JSON": (failing(nested(100_000)), "malformed_event"),
    "deep JSON nobody reads": (failing(b'{"x": ' + nested(100_000) + b"}"), "malformed_event"),
    "a choice nobody asked for": (
        failing({"choices": [{"index": 1, "text": "w"}]}),
        "malformed_event",
    ),
    "a choice below zero": (failing({"choices": [{"index": -1, "text": "w"}]}), "malformed_event"),
    "a count of another kind": (failing({"usage": {"completion_tokens": "4"}}), "malformed_event"),
    "an error": (
        failing({"error": {"message": "out of\nmemory", "code": 500}}, *words(2)),
        "server_error: out of memory",
    ),
    "an error, in a word": (failing({"error": "oom"}, *words(2)), "server_error: oom"),
    "an error as vLLM had it": (
        failing({"object": "error", "message": "oom", "code": 400}),
        "server_error: oom",
    ),
    "an error, then a reset": (
        [CHUNKED + chunk(sse({"error": "oom"}, done=False)), Do.RESET],
        "server_error: oom",
    ),
    "gives up": ([chunked(*words(finish="abort"), usage())], "server_error: it gave up"),
    # too little
    "nothing": ([chunked(done=False)], "truncated"),
    "only comments": ([CHUNKED + chunk(b": ping\n\n" * 3) + END], "truncated"),
    "only [DONE]": ([chunked()], "empty_answer"),
    "only usage": ([chunked(ROLE, usage(0))], "empty_answer"),
    "no end mark": ([chunked(*words(finish=None), done=False)], "truncated"),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_every_fault_has_a_class(name, monkeypatch):
    steps, error = ERRORS[name]
    monkeypatch.setattr(client, "MAX_BODY", 2**20)
    hangs = Do.HANG in steps or error.startswith("timeout")
    timeout_s = 1.0 if hangs else TIMEOUT_S  # such a case takes all of it
    record, _, server = await survive(*steps, timeout_s=timeout_s)
    assert record.outcome is Outcome.FAILED
    assert record.error.startswith(error)
    # What an endless server could write is what the limit let in, and what sockets hold.
    assert server.written < 32 * 2**20


async def test_what_a_fault_left_is_kept_as_waste():
    steps = [CHUNKED + chunk(sse(*every(2), done=False)), Do.RESET]
    record, _, _ = await survive(*steps)
    assert record.outcome is Outcome.FAILED
    assert record.event_tokens == [1, 1]


async def test_a_large_prompt_refused_before_it_was_read():
    async with playing({}) as server:
        target = await HttpTarget.open(server.url, timeout_s=TIMEOUT_S)
        record, _ = await ask(target, "x" * 20_000_000)
        await target.close()
    assert record.outcome is Outcome.FAILED
    # Whether its words arrive before its reset does is the network's choice.
    assert record.error.startswith(("http_413: too long", "reset", "early_close"))


async def test_a_burst_of_503_fails_alone():
    async with playing({"hostile": [page(503, b'{"error": "busy"}'), Do.KEEP]}) as server:
        target = await HttpTarget.open(server.url, timeout_s=TIMEOUT_S)
        both = [ask(target, prompt) for prompt in ["hostile", "kind"] * 20]
        answers = await asyncio.gather(*both)
        await target.close()
    outcomes = [record.outcome for record, _ in answers]
    assert outcomes == [Outcome.FAILED, Outcome.FINISHED] * 20


async def test_all_of_it_at_once_through_worker_processes():
    scripts = {
        **FOUR_TOKENS,
        **{name: [*steps, Do.KEEP] for name, (steps, *_) in COUNTED.items()},
        **{name: steps for name, (steps, _) in ERRORS.items() if "endless" not in name},
    }
    prompts = [prompt for name in scripts for prompt in (name, "kind")]
    asks = [
        Ask(id=str(i), content=prompt, prompt_tokens=None, output_tokens=4, at_s=i * 0.01)
        for i, prompt in enumerate(prompts)
    ]
    plan = Plan(load=Load(kind="open", rate=100.0), asks=asks, warmup=0)
    async with playing(scripts) as server:
        target = await HttpTarget.open(server.url, timeout_s=TIMEOUT_S)
        drive = Drive(target, plan, Limits(duration_s=120.0, drain_s=10.0), workers=2)
        await drive.run()
        await target.close()
    assert (drive.stopped_by, drive.missing) == (None, [])
    records = {int(record.request_id): record for record in drive.records}
    assert len(drive.records) == len(records) == len(asks)
    for i, prompt in enumerate(prompts):
        if prompt not in ERRORS:
            assert records[i].outcome is Outcome.FINISHED, (prompt, records[i].error)
        else:
            assert records[i].error.startswith(ERRORS[prompt][1]), prompt
        if prompt == "kind" or prompt in FOUR_TOKENS:
            assert records[i].event_tokens == [1, 1, 1, 1], prompt
