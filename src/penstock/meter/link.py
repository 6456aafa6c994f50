"""Bytes in and out of one connection, each arrival with the time it truly came.

A busy client reads late. Where the kernel stamps what it receives, that does
not matter: a plain socket is read with `recvmsg`, and the stamp in it is the
kernel's. TLS hides the socket, so there the clock is read when the bytes are.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
from collections.abc import Sequence
from time import monotonic_ns, time_ns
from typing import Any, Protocol, cast

_RECEIVE = 2**16
_SO_TIMESTAMPNS = 35 if sys.platform == "linux" else None  # asm-generic/socket.h
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size)


class Receiver(Protocol):
    """Who is told of what happens on a link. Times are `monotonic_ns`."""

    def sent(self, at_ns: int) -> None:
        """The last byte written is with the kernel."""
        ...

    def received(self, data: bytes, at_ns: int) -> None:
        """Bytes arrived."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The connection is over; None if the other side simply ended it."""
        ...


class Link(Protocol):
    """One open connection."""

    def write(self, data: bytes) -> None:
        """Send everything, now or as soon as there is room."""
        ...

    def close(self) -> None:
        """Close without a word to the receiver."""
        ...


class PlainLink:
    """A TCP socket of our own.

    Segments that are read together share the stamp of the last of them: still
    no later than the moment they were read.
    """

    def __init__(self, sock: socket.socket, receiver: Receiver) -> None:
        self._socket = sock
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._unsent = memoryview(b"")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(sock, self._read)

    def write(self, data: bytes) -> None:
        """See `Link`."""
        self._unsent = memoryview(data)
        self._send()
        if self._unsent:
            self._loop.add_writer(self._socket, self._send)

    def close(self) -> None:
        """See `Link`."""
        self._unsent = memoryview(b"")
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _send(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            at_ns = monotonic_ns()
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
        at_ns = monotonic_ns()
        if not data:
            self._lose(None)
            return
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
                at_ns = min(at_ns, _monotonic(seconds * 10**9 + nanoseconds))
        self._receiver.received(data, at_ns)

    def _lose(self, error: Exception | None) -> None:
        self.close()
        self._receiver.lost(error)


class TlsLink(asyncio.Protocol):
    """A TLS connection through the event loop's transport."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        """See `Link`."""
        self._transport.write(data)
        if not self._transport.get_write_buffer_size():
            self._receiver.sent(monotonic_ns())

    def close(self) -> None:
        """See `Link`."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=0)  # so that resume_writing means: all sent

    def resume_writing(self) -> None:  # noqa: D102
        self._receiver.sent(monotonic_ns())

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._receiver.received(data, monotonic_ns())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._receiver.lost(exc)


Address = tuple[Any, Any, int, str, Any]  # an entry of `getaddrinfo`


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Addresses of a host, to be tried in order. Raises `OSError`."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def connect_plain(addresses: Sequence[Address], receiver: Receiver) -> tuple[Link, bool]:
    """Open a TCP link; also whether the kernel stamps its arrivals. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    failure = OSError("the host has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
            return PlainLink(sock, receiver), _stamp(sock)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


async def connect_tls(host: str, port: int, context: ssl.SSLContext, receiver: Receiver) -> Link:
    """Open a TLS link. Raises `OSError`, of which `ssl.SSLError` is one."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: TlsLink(receiver), host, port, ssl=context)
    return link


def _monotonic(wall_ns: int) -> int:
    """A moment of the wall clock, in which the kernel stamps, on the monotonic one."""
    for _ in range(5):
        before = monotonic_ns()
        now = time_ns()
        after = monotonic_ns()
        # Else we were interrupted between the readings, and they do not belong together.
        if after - before < 5_000:
            break
    return (before + after) // 2 - (now - wall_ns)


def _stamp(sock: socket.socket) -> bool:
    """Ask the kernel to stamp what this socket receives."""
    if _SO_TIMESTAMPNS is None:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True
