"""The two ends of a connection: that a client has gone, or neither speaks nor listens.

uvicorn bounds how long a connection may be idle between two requests, and
nothing else. The limits here cost a timer for a request, and nothing for a
token: the transport itself says when its buffer is full and when it is not.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from penstock.serve.errors import ApiError, ErrorBody

# Bytes of request line and headers together. Browsers and proxies stay under 16 KiB.
MAX_HEAD = 64 << 10

# How often a connection that is not read is asked whether its other end is there.
LOOK_S = 0.25

# Linux tells of an end that comes after bytes not yet read; elsewhere this is the nearest.
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
_BODY_HEADERS = (b"content-length", b"transfer-encoding")

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection; nobody waits for the answer."""


class _Refused(Exception):
    """Stops the parser, which calls it invalid HTTP; the answer is on its way already."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits on the head's size, on reading and on writing.

    A request that is not complete `body_timeout_s` after its first byte, or after
    the connection's begin, gets 408. A client that takes so little that our
    buffer stays full for `write_timeout_s` is cut off: no answer reaches it.
    """

    def __init__(
        self, *args: Any, body_timeout_s: float, write_timeout_s: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._body_timeout_s = body_timeout_s
        self._write_timeout_s = write_timeout_s
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._served: RequestResponseCycle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the transport."""
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._request_is_here()
        self._end_write_limit()
        super().connection_lost(exc)
        if self._served is not None and not self._served.response_complete:
            # uvicorn tells the newest request; of several in a row, an older one is served.
            self._served.disconnected = True
            self._served.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    # Reading.

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._expect_request()
        in_head = self._in_head
        super().data_received(data)
        if in_head and self._in_head:  # no end of it in sight
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._expect_request()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD:
            self._refuse_head()
            raise _Refused
        if self.parser.should_upgrade() and any(n in _BODY_HEADERS for n, _ in self.headers):
            # The parser takes what follows for the other protocol, body and all.
            message = "This server speaks HTTP/1.1 alone: tell your client to offer no Upgrade."
            self._refuse(400, "upgrade_not_served", message)
            raise _Refused
        self._in_head = False
        super().on_headers_complete()
        if self.pipeline and self._looking is None:
            self._look_for_end()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._request_is_here()
        super().on_message_complete()

    def _expect_request(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self._body_timeout_s, self._read_too_long)

    def _request_is_here(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _read_too_long(self) -> None:
        self._reading = None
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if self.flow.read_paused or (answering and not cycle.more_body):
            # It waits for us, not we for it: this is the next request on the same connection.
            self._expect_request()
        elif answering and cycle.response_started:
            self.transport.abort()
        else:
            self._refuse(
                408,
                "request_timeout",
                f"The request was not complete after {self._body_timeout_s:g} s, the limit.",
            )

    def _look_for_end(self) -> None:
        """With requests sent ahead, nothing is read until their turn, nor is the end seen.

        The end is not here either while the kernel's buffers are too full for it: a
        client that sent 50 KB and more ahead is missed when its turn comes.
        """
        self._looking = None
        if not self.pipeline or self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _HUNG_UP)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(LOOK_S, self._look_for_end)

    # Refusing.

    def _refuse_head(self) -> None:
        message = f"The request line and headers exceed {MAX_HEAD:,} bytes, the limit."
        self._refuse(431, "headers_too_long", message)

    def send_400_response(self, msg: str) -> None:
        """In OpenAI's shape. Called by uvicorn."""
        self._refuse(400, "invalid_http", "This is not HTTP/1.1. Nothing of it was served.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        error = ApiError(status, ErrorBody(message, "invalid_request_error", None, code))
        content = error.encode()
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % len(content)
        )
        self.transport.write(STATUS_LINE[status] + head + content)
        self._close()

    # Writing.

    def pause_writing(self) -> None:
        """Called by the transport when its buffer is full."""
        super().pause_writing()
        self._limit_writing()

    def resume_writing(self) -> None:
        """Called by the transport when it has room again."""
        self._end_write_limit()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Called by the request's task."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._limit_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Called when the connection was idle too long."""
        self._close()

    def _close(self) -> None:
        """Close once everything is written, and then in any case."""
        self.transport.close()
        self._limit_writing()

    def _limit_writing(self) -> None:
        if self._writing is None:
            self._writing = self.loop.call_later(self._write_timeout_s, self.transport.abort)

    def _end_write_limit(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it and raise `ClientGone` once the client has gone.

    To be called when the request's body has been read. Starlette does this
    for its `StreamingResponse` alone; an answer that is not streamed costs
    the engine just as much.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
