"""What the server process and the engine process say to each other.

msgpack over one pair of ZeroMQ sockets. The server sends `Submit`, `Abort`
and `Stop` as they come; the engine process answers with `Ready` once, then
one `Report` for each turn of its loop, or `Fatal` before it gives up.
"""

from __future__ import annotations

import msgspec

from penstock.engine.request import Delta, EngineStats, GenerateRequest, ModelFacts


class Submit(msgspec.Struct, tag=True, array_like=True):
    """Take this request in, or say in the next report why not."""

    request: GenerateRequest


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Nobody reads this request, or this choice of it, any more. Its id may already be unknown."""

    request_id: str
    index: int | None = None


class Stop(msgspec.Struct, tag=True, array_like=True):
    """Leave the loop and exit."""


class Ready(msgspec.Struct, tag=True, array_like=True):
    """The model is loaded."""

    facts: ModelFacts
    stats: EngineStats


class Refusal(msgspec.Struct, array_like=True):
    """Why a request was not taken in: its own fault, or a full queue.

    `field` is the request field to change; `retry_after_s` is set, in
    seconds, only when the queue was full. With neither, the engine failed.
    """

    request_id: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None


class Report(msgspec.Struct, tag=True, array_like=True):
    """One turn of the engine's loop: what it took in, and what its step made."""

    accepted: list[str]
    refused: list[Refusal]
    deltas: list[Delta]
    stats: EngineStats


class Fatal(msgspec.Struct, tag=True, array_like=True):
    """The engine process cannot go on; it exits after this message."""

    message: str


ToEngine = Submit | Abort | Stop
FromEngine = Ready | Report | Fatal

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
