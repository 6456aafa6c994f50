"""What the driver and its workers say to each other, and how it is framed.

MessagePack with four bytes of length before it; nothing that comes is code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from penstock.meter.client import Exchange, Origin

# To a worker.


class Setup(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """First of all: where requests go; how many slots a closed loop has, None for an open one."""

    origin: Origin
    slots: int | None
    think_ns: int  # between an answer and a slot's next request


class Deal(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A request of the plan; what becomes of it comes back under its `number`.

    `at_ns` counts from the start of the load; in a closed loop it is None, and the
    next free slot takes it. A `held` slot is not free when the answer is over, but
    waits for `Follow` or `Free`.
    """

    number: int
    request: bytes
    at_ns: int | None
    held: bool


class Follow(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The next request of a session, wanted at a time of `monotonic_ns`."""

    number: int
    request: bytes
    when_ns: int
    held: bool


class Free(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A session is over since then, and its slot free."""

    since_ns: int


class NoMore(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The whole share of the plan was dealt."""


class Go(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The load starts and stops at these times of `monotonic_ns`."""

    start_ns: int
    stop_ns: int


class Stop(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Send no more; what is under way may end. Answered with `Spent`."""


class Cut(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Stop, and report at once what came of what is under way."""


# From a worker.


class Ready(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Connections stand, as far as they can."""

    realtime: bool  # runs before other processes
    together: bool  # reads all sockets at once, in C


class Began(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A request is under way; when it was wanted."""

    number: int
    sched_ns: int


class Ended(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A request is over."""

    number: int
    exchange: Exchange


class Spent(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """None of the requests dealt will begin any more: they are all sent, or the load stopped."""

    at_ns: int


Order = Setup | Deal | Follow | Free | NoMore | Go | Stop | Cut
News = Ready | Began | Ended | Spent

read_order = msgspec.msgpack.Decoder(Order).decode
read_news = msgspec.msgpack.Decoder(News).decode
_encode = msgspec.msgpack.Encoder().encode
_LENGTH = struct.Struct("=I")


def frame(message: Order | News) -> bytes:
    """A message as it goes over the wire."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what comes over the wire into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that these bytes complete."""
        self._rest += data
        begin = 0
        while len(self._rest) >= begin + _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._rest, begin)
            end = begin + _LENGTH.size + size
            if end > len(self._rest):
                break
            yield bytes(self._rest[begin + _LENGTH.size : end])
            begin = end
        del self._rest[:begin]
