"""Reads all sockets that have something at once, in C, and looks only where it must.

A thousand streams bring so many events that reading them is most of what a worker
does. An event in the middle of an answer is only freed of its chunk's frame and kept,
with its stamp, next to those before it; Python sees them when something else comes.
Without a compiler each socket is read by its `Link`: the stamps are the same, the
work is more.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from operator import sub
from pathlib import Path
from typing import Protocol

from penstock.compiled import CannotCompile, compiled
from penstock.meter.loop import TightLoop, Timer

# As in arrivals.c.
_BATCH, _BATCHES = 256, 8
_PIECES = 256
# descriptor, between, middles, count, used, ended, error, more
_HEAD = struct.Struct("@8i")
_STARTS = _HEAD.size
_SIZES = _STARTS + 4 * _PIECES
_TIMES = _SIZES + 4 * _PIECES
_ROOM = _TIMES + 2 * 8 * _PIECES

_A_TURN = 8  # a thousand answers that end together must not keep arrivals waiting

Body = tuple[int, bytes]  # when it arrived, and what it is


class Owner(Protocol):
    """Who hears what came on a socket. Times are `monotonic_ns`."""

    def received(self, data: bytes, at_ns: int, read_ns: int) -> None:
        """Bytes arrived, and were read."""
        ...

    def bodies(self, bodies: list[Body], lag_ns: int) -> None:
        """Whole chunks came, each from the middle of an answer, and lay unread for `lag_ns`."""
        ...


# Called with the error that ended the connection, None if the other side did.
Lost = Callable[[OSError | None], None]


@functools.cache
def _library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    source = Path(__file__).with_name("arrivals.c")
    try:
        library = ctypes.CDLL(str(compiled([source], ["-O2", "-shared", "-fPIC"])))
    except (CannotCompile, OSError):
        return None
    library.penstock_stream_bytes.restype = ctypes.c_int64
    return library


class Stream:
    """One socket: what came on it goes to its owner, its end to `lost`."""

    def __init__(self, sock: socket.socket, owner: Owner, lost: Lost, size: int) -> None:
        self._owner = owner
        self._lost = lost
        self.open = True
        self.waits = False  # for somebody to look
        self._room = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._room)
        self._view = memoryview(self._room).cast("B")
        _HEAD.pack_into(self._view, 0, sock.fileno(), 0, 0, 0, 0, 0, 0, 0)

    def between(self, chunks: bool) -> None:
        """Whether the next byte to come begins a chunk, so that its frame can be read in C."""
        struct.pack_into("@i", self._view, 4, chunks)

    def take(self) -> bool:
        """Hand over what came; whether there may be more to read."""
        view = self._view
        descriptor, between, middles, count, used, ended, error, more = _HEAD.unpack_from(view)
        _HEAD.pack_into(view, 0, descriptor, between, 0, 0, 0, ended, error, 0)
        starts = struct.unpack_from(f"@{count}i", view, _STARTS)
        sizes = struct.unpack_from(f"@{count}i", view, _SIZES)
        at_ns = struct.unpack_from(f"@{count}q", view, _TIMES)
        read_ns = struct.unpack_from(f"@{count}q", view, _TIMES + 8 * _PIECES)
        came = bytes(view[_ROOM : _ROOM + used])
        pieces = [came[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        if middles:
            lag_ns = max(map(sub, read_ns[:middles], at_ns))
            self._owner.bodies(list(zip(at_ns, pieces[:middles], strict=False)), lag_ns)
        for piece, at, read in zip(
            pieces[middles:], at_ns[middles:], read_ns[middles:], strict=True
        ):
            if self.open:  # else closed by whom it was told
                self._owner.received(piece, at, read)
        if self.open and (ended or error):
            self._lost(OSError(error, os.strerror(error)) if error else None)
        return bool(more) and self.open


class Arrivals:
    """The sockets of one loop that are read together."""

    def __init__(self, loop: TightLoop, library: ctypes.CDLL) -> None:
        self._loop = loop
        self._library = library
        self._size = library.penstock_stream_bytes()
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}  # by address
        self._waiting: deque[Stream] = deque()
        self._again: Timer | None = None
        self._found = (ctypes.c_void_p * (_BATCH * _BATCHES))()
        loop.add_reader(self._epoll, self._read)

    @classmethod
    def of(cls, loop: TightLoop) -> Arrivals | None:
        """For a loop; None on a system or a machine where that cannot be."""
        library = _library()
        return None if library is None else cls(loop, library)

    def add(self, sock: socket.socket, owner: Owner, lost: Lost) -> Stream:
        """Read this one from now on. Raises `OSError` if the kernel refuses."""
        stream = Stream(sock, owner, lost, self._size)
        address = ctypes.c_void_p(stream.address)
        if code := self._library.penstock_watch(self._epoll.fileno(), address):
            raise OSError(-code, os.strerror(-code))
        self._streams[stream.address] = stream
        return stream

    def remove(self, sock: socket.socket, stream: Stream) -> None:
        """No longer, and what was not taken is let go."""
        if stream.open:
            stream.open = False
            self._epoll.unregister(sock)
            del self._streams[stream.address]

    def _read(self) -> None:
        count = self._library.penstock_arrivals(self._epoll.fileno(), self._found)
        if count < 0 and count != -errno.EINTR:
            raise OSError(-count, os.strerror(-count))
        for address in self._found[: max(count, 0)]:
            stream = self._streams[address or 0]
            if not stream.waits:
                stream.waits = True
                self._waiting.append(stream)
        if self._again is not None:
            self._again.cancel()
        for _ in range(min(_A_TURN, len(self._waiting))):
            stream = self._waiting.popleft()
            stream.waits = False
            while stream.open and stream.take():
                self._library.penstock_read(ctypes.c_void_p(stream.address), 1)
        self._again = self._loop.call_at(0, self._read) if self._waiting else None
