"""Why a response is no answer to read: a status, a redirect, another kind of content."""

from __future__ import annotations

import msgspec

from penstock.meter.client import Exchange
from penstock.meter.dialect import brief

_STREAM = "text/event-stream"
# What a stream of events may also be called, by servers that do not care.
_ALSO_STREAM = ("", "text/plain", "application/octet-stream")


def refusal(exchange: Exchange, *, stream: bool = True) -> str | None:
    """An error, its class first; None if there is an answer to read, were it only a part of one.

    Classes: that of the exchange's own error where no status came, http_NNN,
    encoded, not_a_stream, not_json.
    """
    if exchange.status is None:
        return exchange.error
    headers = exchange.headers
    if exchange.status != 200:
        more = (("location", "to"), ("retry-after", "retry after"))
        told = "".join(f" ({word} {headers[key][:200]})" for key, word in more if key in headers)
        return f"http_{exchange.status}: {_message(exchange.body)}{told}"
    encoding = headers.get("content-encoding", "identity")
    if encoding not in ("", "identity"):
        return f"encoded: the answer came in {brief(encoding)}, although none was asked for"
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if stream and kind != _STREAM and kind not in _ALSO_STREAM:
        return f"not_a_stream: {brief(kind)} came, although stream=true was asked"
    if not stream and kind == _STREAM:
        return "not_json: a stream of events came, although stream=false was asked"
    return None


def _message(body: bytes) -> str:
    """What an error's body says, in a line."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return brief(body[:2000].decode("utf-8", "replace"))
    if not isinstance(answer, dict):
        return brief(answer)
    return brief(answer.get("error") or answer.get("detail") or answer)
