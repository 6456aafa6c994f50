"""One connection: bytes out and in, each arrival with the time it truly came.

A busy client reads late. Where the kernel stamps what it receives, that does
not matter: a plain socket is read with `recvmsg`, and the stamp in it is the
kernel's. TLS hides the bytes, so there the clock is read when they are.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import sys
from time import monotonic_ns, time_ns
from typing import Any, Protocol

from penstock.meter.arrivals import Arrivals, Owner, Stream
from penstock.meter.loop import Loop

_RECEIVE = 2**13
_SO_TIMESTAMPNS = 35 if sys.platform == "linux" else None  # asm-generic/socket.h
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)
_OFFSET_HOLDS_NS = 10_000_000

Address = tuple[Any, Any, int, str, Any]  # an entry of `getaddrinfo`


class Receiver(Owner, Protocol):
    """Who is told of what happens on a link. Times are `monotonic_ns`."""

    def opened(self) -> None:
        """The connection stands."""
        ...

    def sent(self, at_ns: int) -> None:
        """The last byte written was handed to the kernel."""
        ...

    def lost(self, error: OSError | None) -> None:
        """The connection is over, or never came about; None if the other side ended it."""
        ...


class Link:
    """A TCP connection, opened at once. Raises `OSError` if the kernel refuses.

    Read together with others where there are `arrivals`.

    Segments that are read together share the stamp of the last of them: still
    no later than the moment they were read.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        receiver: Receiver,
        arrivals: Arrivals | None = None,
    ) -> None:
        self._loop = loop
        self._receiver = receiver
        self._arrivals = arrivals
        self._stream: Stream | None = None
        self._unsent = memoryview(b"")
        family, kind, protocol, _, where = address
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kernel_stamps = self._stamp()
        code = self._socket.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(code, os.strerror(code))
        loop.add_writer(self._socket, self._connected)

    def write(self, data: bytes) -> None:
        """Send everything, now or as soon as there is room."""
        self._unsent = memoryview(data)
        self._send()
        if self._unsent:
            self._loop.add_writer(self._socket, self._send)

    def between(self, chunks: bool) -> None:
        """Whether the next byte to come begins a chunk of a body; see `arrivals`."""
        if self._stream is not None:
            self._stream.between(chunks)

    def flush(self) -> None:
        """Have what was read and waits received now."""
        if self._stream is not None and self._stream.open:
            self._stream.take()

    def close(self) -> None:
        """Close without a word to the receiver."""
        self._unsent = memoryview(b"")
        if self._socket.fileno() >= 0:
            if self._arrivals is not None and self._stream is not None:
                self._arrivals.remove(self._socket, self._stream)
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _stamp(self) -> bool:
        """Ask the kernel to stamp what this socket receives."""
        if _SO_TIMESTAMPNS is None:
            return False
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except OSError:
            return False
        return True

    def _connected(self) -> None:
        self._loop.remove_writer(self._socket)
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(OSError(code, os.strerror(code)))
            return
        if self._arrivals is None:
            self._loop.add_reader(self._socket, self._read)
        else:
            self._stream = self._arrivals.add(self._socket, self._receiver, self._lose)
        self._receiver.opened()

    def _send(self) -> None:
        # The clock is read first: the other side, woken by the bytes, may well run
        # before we do again. What is sent was sent no earlier.
        at_ns = monotonic_ns()
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._socket)
            self._receiver.sent(at_ns)

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE, _ANCILLARY)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        read_ns = at_ns = monotonic_ns()
        if ancillary and ancillary[0][1] == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack_from(ancillary[0][2])
            at_ns = min(at_ns, _wall.monotonic(seconds * 10**9 + nanoseconds, at_ns))
        if data:
            self._receiver.received(data, at_ns, read_ns)
        else:
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._socket.fileno() >= 0:  # else closed by us, in the same turn of the loop
            self.close()
            self._receiver.lost(error)


class TlsLink(Link):
    """The same under TLS; opened when the handshake is done."""

    def __init__(
        self, loop: Loop, address: Address, receiver: Receiver, context: ssl.SSLContext, host: str
    ) -> None:
        self._context = context
        self._host = host
        super().__init__(loop, address, receiver)

    def _stamp(self) -> bool:
        return False

    def _connected(self) -> None:
        self._loop.remove_writer(self._socket)
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(OSError(code, os.strerror(code)))
            return
        try:
            self._socket = self._context.wrap_socket(
                self._socket, server_hostname=self._host, do_handshake_on_connect=False
            )
        except OSError as error:
            self._lose(error)
            return
        self._loop.add_reader(self._socket, self._shake_hands)
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.remove_writer(self._socket)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._socket, self._shake_hands)
        except OSError as error:
            self._lose(error)
        else:
            self._loop.remove_writer(self._socket)
            self._loop.add_reader(self._socket, self._read)
            self._receiver.opened()

    def _read(self) -> None:
        # To the last decrypted byte: the selector knows only of bytes still encrypted.
        while self._socket.fileno() >= 0:
            try:
                data = self._socket.recv(_RECEIVE)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._lose(error)
                return
            read_ns = monotonic_ns()
            if not data:
                self._lose(None)
                return
            self._receiver.received(data, read_ns, read_ns)


class _WallClock:
    """Puts moments of the wall clock, in which the kernel stamps, on the monotonic one."""

    def __init__(self) -> None:
        self._offset = self._until_ns = 0

    def monotonic(self, wall_ns: int, now_ns: int) -> int:
        # Both clocks are slewed alike; only when someone sets the wall clock do they part.
        if now_ns > self._until_ns:
            self._offset, self._until_ns = self._measure(), now_ns + _OFFSET_HOLDS_NS
        return wall_ns + self._offset

    def _measure(self) -> int:
        for _ in range(5):
            before = monotonic_ns()
            wall = time_ns()
            after = monotonic_ns()
            # Else we were interrupted between the readings, and they do not belong together.
            if after - before < 5_000:
                break
        return (before + after) // 2 - wall


_wall = _WallClock()
