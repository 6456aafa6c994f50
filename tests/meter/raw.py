"""A server that plays a script of bytes, pauses and breaks on a raw socket.

To an ask whose prompt names a script it plays that; to any other it answers
well, with four tokens on four events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from enum import Enum, auto


class Do(Enum):
    CLOSE = auto()
    RESET = auto()
    HALF_CLOSE = auto()  # no more from us, but we go on reading
    HANG = auto()  # say nothing until the client goes
    KEEP = auto()  # the connection lives on for the next request


class Endless(bytes):
    """Bytes written again and again until the client goes."""


class Drip(bytes):
    """Bytes written one at a time, each in a segment of its own."""


Step = bytes | float | Do

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = SSE + b"Transfer-Encoding: chunked\r\n\r\n"
TO_CLOSE = SSE + b"\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(value: object, eol: str = "\n") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return b"data: " + text + (eol * 2).encode()


def words(
    count: int = 4, index: int = 0, finish: str | None = "length", **more: object
) -> list[dict]:
    """Events of one word each; the last one finishes."""
    return [
        {
            "choices": [
                {"index": index, "text": f"w{i} ", "finish_reason": finish}
                if i == count - 1
                else {"index": index, "text": f"w{i} "}
            ],
            **more,
        }
        for i in range(count)
    ]


def usage(tokens: object = 4, **more: object) -> dict:
    return {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens, **more}}


def sse(*values: object, done: bool = True, eol: str = "\n") -> bytes:
    """A stream of events, by default ended by [DONE]."""
    return b"".join(event(v, eol) for v in values) + (DONE if done else b"")


GOOD = sse(*words(), usage())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*values: object, done: bool = True) -> bytes:
    """A whole chunked response of these events."""
    return CHUNKED + chunk(sse(*values, done=done)) + END


def sized(body: bytes, length: int | None = None) -> bytes:
    return SSE + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def page(status: int, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    ).encode("latin-1") + body


TOO_LONG = page(413, b'{"error": "too long"}', Connection="close")


class RawServer:
    def __init__(self, scripts: Mapping[str, Sequence[Step]]) -> None:
        self.scripts = scripts
        self.written = 0
        self.url = ""
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*filter(None, self._open.values()))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(_lengths(head), 0)
                if length > 2**20:  # such a body is refused before it is read
                    writer.write(TOO_LONG)
                    await writer.drain()
                    break
                body = await reader.readexactly(length)
                if head.startswith(b"GET"):
                    models = json.dumps({"data": [{"id": "m", "owned_by": "raw"}]}).encode()
                    writer.write(page(200, models))
                elif (steps := self.scripts.get(json.loads(body)["prompt"])) is None:
                    writer.write(chunked(*words(), usage()))
                elif not await self._play(steps, reader, writer):
                    break
        writer.close()

    async def _play(
        self, steps: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection lives on."""
        for step in steps:
            match step:
                case Endless():
                    while True:
                        writer.write(step)
                        self.written += len(step)
                        await writer.drain()
                        await asyncio.sleep(0)
                case Drip():
                    for byte in step:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.001)
                case bytes():
                    writer.write(step)
                    await writer.drain()
                    await asyncio.sleep(0.01)  # so that steps come in segments of their own
                case float():
                    await asyncio.sleep(step)
                case Do.KEEP:
                    return True
                case Do.HALF_CLOSE:
                    writer.write_eof()
                case Do.HANG:
                    await reader.read()
                case Do.RESET:
                    linger = struct.pack("ii", 1, 0)  # close sends RST
                    peer = writer.get_extra_info("socket")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
        return False


def _lengths(head: bytes) -> Iterator[int]:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            yield int(line.split(b":")[1])


@contextlib.asynccontextmanager
async def playing(scripts: Mapping[str, Sequence[Step]]) -> AsyncIterator[RawServer]:
    raw = RawServer(scripts)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()
        await raw.close()
