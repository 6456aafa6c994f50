"""A streaming HTTP/1.1 client that stamps first and parses later.

General HTTP clients parse between the socket and the clock, so that a busy
client reports its own delay as the server's. Here bytes come with the time of
their arrival (see `link`), and the body is only kept, piece by piece with its
stamp; whoever asked reads the pieces after the exchange is over.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from time import monotonic_ns
from urllib.parse import urlsplit

import httptools

from penstock import __version__
from penstock.meter.link import Address, Link, connect_plain, connect_tls, resolve

MAX_BODY = 256 * 2**20  # bytes of one response: an endless stream must end
DONE_GRACE_S = 1.0  # after [DONE], how long a server may take to end the response
CONNECT_S = 30.0


class Exchange:
    """One request and what came back.

    Times are `time.monotonic_ns`. `error` is None, or a class and a detail:
    connect, tls, reset, early_close, malformed_http, timeout, too_large.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything: the request is sent again."""
        self.sent_ns: int | None = None
        self.end_ns: int | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.pieces: list[tuple[int, bytes]] = []
        self.error: str | None = None

    @property
    def body(self) -> bytes:
        """The whole body, as far as it came."""
        return b"".join(piece for _, piece in self.pieces)


class _Connection:
    """One keep-alive connection, carrying one exchange at a time."""

    def __init__(self) -> None:
        self.link: Link
        self.reusable = False  # between exchanges, with the connection still good
        self.silent = True  # no byte of the present response has come
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._over: asyncio.Future[None] | None = None
        self._size = 0
        self._stamp = 0

    async def run(self, exchange: Exchange, request: bytes, timeout_s: float) -> None:
        """Send, and return when the response is over, whichever way."""
        self._exchange, self._over = exchange, self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._until_close = True
        self._size = 0
        self.silent, self.reusable = True, False
        timer = self._loop.call_later(timeout_s, self._fail, f"timeout: no end in {timeout_s:g} s")
        try:
            self.link.write(request)
            await self._over
        finally:
            timer.cancel()
            self._exchange = None
            if not self.reusable:
                self.link.close()

    # Called by the link.

    def sent(self, at_ns: int) -> None:
        """See `Receiver`."""
        if self._exchange is not None and self._exchange.sent_ns is None:
            self._exchange.sent_ns = at_ns

    def received(self, data: bytes, at_ns: int) -> None:
        """See `Receiver`."""
        self._stamp = at_ns
        if self._exchange is None:  # bytes nobody asked for: do not reuse
            self.reusable = False
            self.link.close()
            return
        self.silent = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"malformed_http: {error}")

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        self.reusable = False
        self._stamp = monotonic_ns()
        if error is not None:
            self._fail(f"reset: {error}")
        elif self._exchange is not None and self._exchange.status and self._until_close:
            self._finish()
        else:
            self._fail("early_close: the connection ended before the response did")

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if key in ("content-length", "transfer-encoding"):
            self._until_close = False
        if self._exchange is not None:
            self._exchange.headers[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if (exchange := self._exchange) is None:
            return
        exchange.pieces.append((self._stamp, body))
        self._size += len(body)
        if self._size > MAX_BODY:
            self._fail(f"too_large: more than {MAX_BODY:,} bytes")
        # A raw line break cannot stand inside JSON, so this is the real end mark.
        elif body.startswith(b"data: [DONE]") or b"\ndata: [DONE]" in body:
            self._loop.call_later(DONE_GRACE_S, self._give_up_on_end, exchange)

    def on_message_complete(self) -> None:
        if self._exchange is not None and (self._exchange.status or 0) >= 200:
            self.reusable = bool(self._parser.should_keep_alive())
            self._finish()

    def _give_up_on_end(self, exchange: Exchange) -> None:
        if self._exchange is exchange:
            self._finish()

    def _fail(self, error: str) -> None:
        if self._exchange is not None:
            self.reusable = False
            self._exchange.error = error
            self._stamp = monotonic_ns()
            self._finish()

    def _finish(self) -> None:
        assert self._exchange is not None
        assert self._over is not None
        self._exchange.end_ns = self._stamp
        self._exchange = None  # what comes now belongs to no request
        if not self._over.done():
            self._over.set_result(None)


class Client:
    """Connections to one server, opened as needed and kept.

    `url` is `http://` or `https://` with host, optional port and path prefix.
    Raises `ValueError` if it is anything else.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address.")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.prefix = parts.path.rstrip("/").removesuffix("/v1")
        self.tls = parts.scheme == "https"
        self.timeout_s = timeout_s
        self.kernel_stamps = False  # whether the connections' arrivals are stamped by the kernel
        self._ssl = ssl.create_default_context() if self.tls else None
        self._addresses: Sequence[Address] = ()
        self._idle: list[_Connection] = []
        host = f"[{self.host}]" if ":" in self.host else self.host
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"Host: {host}:{self.port}\r\nUser-Agent: penstock/{__version__}\r\n{authorization}"
            "Accept: text/event-stream, application/json\r\n"
        )

    async def get(self, path: str) -> Exchange:
        """GET `path`, below the prefix."""
        exchange = Exchange()
        head = f"GET {self.prefix}{path} HTTP/1.1\r\n{self._head}\r\n"
        await self._run(head.encode("latin-1"), exchange)
        return exchange

    async def post(self, path: str, body: bytes, exchange: Exchange) -> None:
        """POST JSON to `path`, below the prefix; when cancelled, `exchange` holds what came."""
        head = (
            f"POST {self.prefix}{path} HTTP/1.1\r\n{self._head}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await self._run(head.encode("latin-1") + body, exchange)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().link.close()

    async def _run(self, request: bytes, exchange: Exchange) -> None:
        while True:
            idle = self._take_idle()
            connection = idle or await self._connect(exchange)
            if connection is None:
                return
            await connection.run(exchange, request, self.timeout_s)
            if connection.reusable:
                self._idle.append(connection)
            # A server may close an idle connection just as we write on it. Nothing of
            # an answer has come then, so ask again on another (RFC 9112, 9.3.1).
            lost = (exchange.error or "").startswith(("reset", "early_close"))
            if not (idle and lost and connection.silent):
                return
            exchange.clear()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self, exchange: Exchange) -> _Connection | None:
        connection = _Connection()
        try:
            async with asyncio.timeout(min(self.timeout_s, CONNECT_S)):
                if self._ssl is not None:
                    connection.link = await connect_tls(self.host, self.port, self._ssl, connection)
                else:
                    # Asked once: a look-up for each of a thousand connections takes its time.
                    self._addresses = self._addresses or await resolve(self.host, self.port)
                    connection.link, self.kernel_stamps = await connect_plain(
                        self._addresses, connection
                    )
        except ssl.SSLError as error:
            exchange.error = f"tls: {error}"
        except TimeoutError:
            exchange.error = f"connect: no connection to {self.host}:{self.port} in time"
        except OSError as error:
            exchange.error = f"connect: {error.strerror or error}"
        else:
            return connection
        exchange.end_ns = monotonic_ns()
        return None
