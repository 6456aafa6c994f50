"""A streaming HTTP/1.1 client that stamps first and reads later.

General HTTP clients parse between the socket and the clock, so that a busy
client reports its own delay as the server's. Here bytes come with the time of
their arrival (see `link`), and the body is only kept, piece by piece with its
stamp; whoever asked reads the pieces after the exchange is over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from penstock import __version__
from penstock.meter.arrivals import Arrivals, Body
from penstock.meter.link import Address, Link, TlsLink
from penstock.meter.loop import Loop, Timer

MAX_BODY = 256 * 2**20  # bytes of one response, head and all: an endless stream must end
_PIECE = 100  # bytes that a piece takes beside its content
DONE_GRACE_S = 1.0  # after [DONE], how long a server may take to end the response
CONNECT_S = 30.0


class Exchange(msgspec.Struct, array_like=True):
    """What came back for one request.

    Times are `time.monotonic_ns`; `pieces` are of the body, each with its
    arrival. `lag_ns` is the longest that any byte lay in the kernel before it
    was read. `error` is None, or a class and a detail: connect, tls, reset,
    early_close, malformed_http, timeout, too_large, cut.
    """

    sent_ns: int | None = None
    end_ns: int | None = None
    status: int | None = None
    headers: dict[str, str] = {}
    pieces: list[tuple[int, bytes]] = []
    lag_ns: int = 0
    error: str | None = None

    @property
    def body(self) -> bytes:
        """The whole body, as far as it came."""
        return b"".join(piece for _, piece in self.pieces)


class Origin(msgspec.Struct, frozen=True):
    """The server that requests go to."""

    host: str
    port: int
    tls: bool
    timeout_s: float  # from sending to the end of the response


class Call:
    """One request on its way; `over` is called when the exchange is, whichever way it ended."""

    __slots__ = ("connection", "exchange", "over", "request")

    def __init__(
        self, request: bytes, exchange: Exchange, over: Callable[[Exchange], None]
    ) -> None:
        self.request = request
        self.exchange = exchange
        self.over = over
        self.connection: _Connection | None = None

    def cut(self) -> None:
        """End now; the exchange keeps what came."""
        if self.connection is not None:
            self.connection.fail("cut: by the client")


class Connections:
    """Keep-alive connections to one server, opened as needed or ahead of the need."""

    def __init__(self, loop: Loop, origin: Origin, arrivals: Arrivals | None = None) -> None:
        self.loop = loop
        self._arrivals = arrivals
        self.origin = origin
        self.kernel_stamps = False  # whether the kernel stamps what arrives
        self.opening = 0  # ahead of any call
        self.refused = 0  # of those
        self.idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if origin.tls else None
        self._addresses: Sequence[Address] = ()

    def call(self, request: bytes, exchange: Exchange, over: Callable[[Exchange], None]) -> Call:
        """Send a whole request. `over` may be called before this returns."""
        call = Call(request, exchange, over)
        if self.idle:
            self.idle.pop().carry(call)
        else:
            _Connection(self, call)
        return call

    def open_ahead(self, count: int) -> None:
        """Open connections for calls to come; what fails now is tried again by its call."""
        for _ in range(count):
            _Connection(self)

    def close(self) -> None:
        """Close the idle connections."""
        while self.idle:
            self.idle.pop().close()

    def addresses(self) -> Sequence[Address]:
        """Where the server is. Raises `OSError` if that cannot be found out."""
        # Asked once: a look-up for each of a thousand connections takes its time.
        self._addresses = self._addresses or socket.getaddrinfo(
            self.origin.host, self.origin.port, type=socket.SOCK_STREAM
        )
        return self._addresses

    def link(self, address: Address, connection: _Connection) -> Link:
        """Begin to open one connection. Raises `OSError`."""
        if self._tls is not None:
            return TlsLink(self.loop, address, connection, self._tls, self.origin.host)
        link = Link(self.loop, address, connection, self._arrivals)
        self.kernel_stamps = link.kernel_stamps
        return link


class _Connection:
    """One connection, carrying one call at a time."""

    def __init__(self, among: Connections, call: Call | None = None) -> None:
        self._among = among
        self._call = call
        self._used = False  # has been idle before its call: the server may have closed it
        self._silent = True  # no byte of the present response has come
        self._until_close = True
        self._whole = False  # the present response is complete
        self._reusable = False
        self._size = 0
        self._tail = b""  # the end of a piece that did not end a line
        self._between = False  # the last that was parsed was the frame of a whole chunk
        self._link: Link | None = None
        self._parser: Any = None
        self._open = False
        if call is None:
            among.opening += 1
        else:
            call.connection = self
        self._timer: Timer | None = None
        self._untried: list[Address] = []
        try:
            self._untried += among.addresses()
            self._try_next()
        except OSError as error:
            self.lost(error)

    def carry(self, call: Call) -> None:
        """Send the call's request and see its response through."""
        self._call, call.connection = call, self
        self._parser = httptools.HttpResponseParser(self)
        self._silent = self._until_close = True
        self._whole = self._reusable = False
        self._size, self._tail, self._between = 0, b"", False
        limit_s = self._among.origin.timeout_s
        self._timer = self._among.loop.call_later(
            limit_s, self.fail, f"timeout: no end in {limit_s:g} s"
        )
        assert self._link is not None
        self._link.write(call.request)

    def close(self) -> None:
        """Close without a word."""
        self._stop_timer()
        if self._link is not None:
            self._link.close()
        # Each knows us: with the garbage collector off these would be kept for ever.
        self._link = self._parser = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def fail(self, error: str) -> None:
        """End the call with an error, and the connection with it."""
        if self._link is not None:
            self._link.flush()
        self._reusable = False
        if self._call is not None:
            self._call.exchange.error = error
            self._finish(monotonic_ns())

    # While it is being opened.

    def _try_next(self) -> None:
        limit_s = min(self._among.origin.timeout_s, CONNECT_S)
        self._timer = self._among.loop.call_later(limit_s, self._not_in_time)
        self._link = self._among.link(self._untried.pop(0), self)

    def _not_in_time(self) -> None:
        self.lost(OSError(f"no connection to {self._among.origin.host} in time"))

    def opened(self) -> None:
        """See `Receiver`."""
        self._open = True
        self._stop_timer()
        if self._call is not None:
            self.carry(self._call)
        else:
            self._among.opening -= 1
            self._rest()

    def _rest(self) -> None:
        self._used = True
        self._among.idle.append(self)

    # Called by the link.

    def sent(self, at_ns: int) -> None:
        """See `Receiver`."""
        if self._call is not None and self._call.exchange.sent_ns is None:
            self._call.exchange.sent_ns = at_ns

    def received(self, data: bytes, at_ns: int, read_ns: int) -> None:
        """See `Receiver`."""
        if self._call is None:  # bytes nobody asked for: do not use it again
            self.lost(None)
            return
        self._silent = False
        self._at_ns = at_ns
        exchange = self._call.exchange
        exchange.lag_ns = max(exchange.lag_ns, read_ns - at_ns)
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self._whole:
                self.fail(f"malformed_http: {error or 'it switches protocols'}")
                return
        # Only now: what follows a response in the same bytes belongs to no later call.
        if self._whole:
            self._finish(at_ns)
        elif self._size > MAX_BODY:
            self.fail(f"too_large: more than {MAX_BODY:,} bytes")
        elif self._link is not None:
            # A frame's end, and not some first digits of the next.
            at_frame = self._between and data.endswith(b"\r\n")
            self._link.between(at_frame and not self._tail)

    def bodies(self, bodies: list[Body], lag_ns: int) -> None:
        """See `Owner`."""
        if self._call is None:
            self.lost(None)
            return
        exchange = self._call.exchange
        exchange.pieces += bodies
        exchange.lag_ns = max(exchange.lag_ns, lag_ns)
        self._at_ns = bodies[-1][0]
        self._size += sum(len(body) + _PIECE for _, body in bodies)
        if self._size > MAX_BODY:
            self.fail(f"too_large: more than {MAX_BODY:,} bytes")

    def lost(self, error: OSError | None) -> None:
        """See `Receiver`."""
        self.close()
        call = self._call
        if not self._open:
            self._lost_while_opening(error)
        elif call is None:
            if self in self._among.idle:
                self._among.idle.remove(self)
        elif self._used and self._silent:
            # A server may close an idle connection just as we write on it. Nothing of
            # an answer has come then, so ask again on another (RFC 9112, 9.3.1).
            self._call = None
            call.exchange.sent_ns = None
            _Connection(self._among, call)
        elif error is None and self._until_close and call.exchange.status:
            self._finish(monotonic_ns())
        elif error is None:
            self.fail("early_close: the connection ended before the response did")
        else:
            self.fail(f"reset: {error}")

    def _lost_while_opening(self, error: OSError | None) -> None:
        while self._untried:
            try:
                self._try_next()
            except OSError as another:
                error = another
            else:
                return
        if self._call is None:
            self._among.opening -= 1
            self._among.refused += 1
        elif isinstance(error, ssl.SSLError):
            self.fail(f"tls: {error}")
        else:
            self.fail(f"connect: {(error and error.strerror) or error or 'closed at once'}")

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._whole:  # a second response, which nobody asked for
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._call is None or self._whole:
            return
        key = name.decode("latin-1").lower()
        if key in ("content-length", "transfer-encoding"):
            self._until_close = False
        self._call.exchange.headers[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._call is not None and not self._whole:
            exchange = self._call.exchange
            exchange.status = self._parser.get_status_code()
            self._between = "chunked" in exchange.headers.get("transfer-encoding", "")

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_body(self, body: bytes) -> None:
        if (call := self._call) is None or self._whole:
            return
        call.exchange.pieces.append((self._at_ns, body))
        self._size += _PIECE
        if self._tail:
            body = self._tail + body
        self._tail = b"" if body.endswith(b"\n") else body[-len(b"\ndata: [DONE]") :]
        # A raw line break cannot stand inside JSON, so this is the real end mark.
        if b"data: [DONE]" in body and (body.startswith(b"data:") or b"\ndata: [DONE]" in body):
            self._among.loop.call_later(DONE_GRACE_S, self._give_up_on_end, call)

    def on_message_complete(self) -> None:
        if (call := self._call) is None or self._whole:
            return
        if (call.exchange.status or 0) >= 200:
            self._whole = True
            self._reusable = bool(self._parser.should_keep_alive())
        else:  # 100 Continue and the like: the response is still to come
            call.exchange.status, call.exchange.headers = None, {}
            self._until_close = True

    def _give_up_on_end(self, call: Call) -> None:
        if self._call is call:
            self._reusable = False
            self._finish(self._at_ns)

    def _finish(self, at_ns: int) -> None:
        call, self._call = self._call, None  # what comes now belongs to no request
        assert call is not None
        call.exchange.end_ns = at_ns
        call.connection = None
        self._stop_timer()
        if self._reusable:
            assert self._link is not None
            self._link.between(False)
            self._rest()
        else:
            self.close()
        call.over(call.exchange)


class Client:
    """Writes requests to one server, and runs them under asyncio.

    `url` is `http://` or `https://` with host, optional port and path prefix.
    Raises `ValueError` if it is anything else.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address.")
        tls = parts.scheme == "https"
        self.origin = Origin(parts.hostname, parts.port or (443 if tls else 80), tls, timeout_s)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._connections: Connections | None = None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"Host: {host}:{self.origin.port}\r\nUser-Agent: penstock/{__version__}\r\n"
            f"{authorization}Accept: text/event-stream, application/json\r\n"
            "Accept-Encoding: identity\r\n"
        )

    @property
    def kernel_stamps(self) -> bool:
        """Whether the kernel stamps what arrives; known once something was sent."""
        return self._connections is not None and self._connections.kernel_stamps

    def request(self, path: str, body: bytes | None = None) -> bytes:
        """A request for `path` below the prefix: POST of a JSON body, or GET."""
        if body is None:
            return f"GET {self._prefix}{path} HTTP/1.1\r\n{self._head}\r\n".encode("latin-1")
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body

    async def run(self, request: bytes, exchange: Exchange | None = None) -> Exchange:
        """Send it and wait for the end; when cancelled, `exchange` holds what came."""
        loop = asyncio.get_running_loop()
        if self._connections is None:
            self._connections = Connections(loop, self.origin)
        over: asyncio.Future[None] = loop.create_future()
        exchange = Exchange() if exchange is None else exchange
        call = self._connections.call(
            request, exchange, lambda _: None if over.done() else over.set_result(None)
        )
        try:
            await over
        finally:
            call.cut()
        return exchange

    async def get(self, path: str) -> Exchange:
        """GET `path`, below the prefix."""
        return await self.run(self.request(path))

    def close(self) -> None:
        """Close the idle connections."""
        if self._connections is not None:
            self._connections.close()
