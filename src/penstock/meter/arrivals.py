"""Reads all sockets that have something at once, in C, and looks only where it must.

A thousand streams bring so many events that reading them is most of what a worker
does. An event in the middle of an answer is only kept, with its stamp, next to those
before it; Python sees a few of them at a time. Without a compiler each socket is read
by its `Link`: the stamps are the same, the work is more.
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
from pathlib import Path

from penstock.compiled import CannotCompile, compiled
from penstock.meter.loop import TightLoop, Timer

# As in arrivals.c.
_BATCH = 256
_PIECES = 256
_HEAD = struct.Struct("@7i")  # descriptor, keeps, count, used, ended, error, more
_SIZES = _HEAD.size
_TIMES = _SIZES + 4 * _PIECES + 4  # padded
_ROOM = _TIMES + 2 * 8 * _PIECES

_A_TURN = 64  # a thousand answers that end together must not keep arrivals waiting

# Called with the bytes, when they arrived and when they were read; or with the error that
# ended the connection, None if the other side did.
Received = Callable[[bytes, int, int], None]
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
    """One socket: what came on it goes to `received`, its end to `lost`."""

    def __init__(self, sock: socket.socket, received: Received, lost: Lost, size: int) -> None:
        self._received = received
        self._lost = lost
        self.open = True
        self.waits = False  # for somebody to look
        self._room = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._room)
        self._view = memoryview(self._room).cast("B")
        _HEAD.pack_into(self._view, 0, sock.fileno(), 0, 0, 0, 0, 0, 0)

    def keep(self, on: bool) -> None:
        """Whether the middle of an answer may wait: only while a chunked body comes."""
        struct.pack_into("@i", self._view, 4, on)

    def take(self) -> bool:
        """Hand over what came; whether there may be more to read."""
        descriptor, keeps, count, used, ended, error, more = _HEAD.unpack_from(self._view)
        _HEAD.pack_into(self._view, 0, descriptor, keeps, 0, 0, ended, error, 0)
        sizes = struct.unpack_from(f"@{count}i", self._view, _SIZES)
        at_ns = struct.unpack_from(f"@{count}q", self._view, _TIMES)
        read_ns = struct.unpack_from(f"@{count}q", self._view, _TIMES + 8 * _PIECES)
        came, start = bytes(self._view[_ROOM : _ROOM + used]), 0
        for size, at, read in zip(sizes, at_ns, read_ns, strict=True):
            if self.open:  # else closed by whom it was told
                self._received(came[start : start + size], at, read)
            start += size
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
        self._found = (ctypes.c_void_p * _BATCH)()
        loop.add_reader(self._epoll, self._read)

    @classmethod
    def of(cls, loop: TightLoop) -> Arrivals | None:
        """For a loop; None on a system or a machine where that cannot be."""
        library = _library()
        return None if library is None else cls(loop, library)

    def add(self, sock: socket.socket, received: Received, lost: Lost) -> Stream:
        """Read this one from now on. Raises `OSError` if the kernel refuses."""
        stream = Stream(sock, received, lost, self._size)
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
