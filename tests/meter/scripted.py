"""A scripted OpenAI-style server with known timing and known faults, over real sockets.

Runs inside a test's event loop (`serving`) or as a process of its own, so that
the meter's clock is tested without sharing its interpreter:
`python scripted.py '{"ttft_s": 0.05}'` prints its URL. GET /stamps gives, by
prompt, when each request was read and each event written, in monotonic ns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator
from time import monotonic_ns

import msgspec


class Script(msgspec.Struct, kw_only=True):
    ttft_s: float = 0.02
    itl_s: float = 0.005
    events: int = 8
    tokens_per_event: int = 1
    usage: str = "final"  # final, every, none, or a count that is wrong
    ids: bool = False  # token ids in the events
    chat: bool = False  # role first, reasoning in the second event, a tool call in the last
    no_completions: bool = False  # only the chat endpoint
    eos: bool = False  # one token more in usage than was sent, finish_reason "stop"
    eol: str = "\n"
    comments: bool = False
    cut: int | None = None  # bytes a write
    hang_after_done: bool = False
    fault: str | None = None
    fault_every: int = 1  # strike each so-many-th request
    models: list[dict] | None = None
    tells: dict[str, object] = {}  # path to what a GET of it is answered; None: nothing, ever
    server_header: str | None = None
    slots: int = 10_000  # answered at once; others wait their turn
    service_s: float = 0.0  # one at a time, for exponential times of this mean, then the answer
    seed: int = 0


class ScriptedServer:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.stamps: dict[str, list[int]] = {}
        self.bodies: list[dict] = []
        self.heads: list[str] = []
        self.struck = 0
        self.connections = 0
        self.url = ""
        self._places = asyncio.Semaphore(script.slots)
        self._dice = random.Random(script.seed)
        self._free = 0.0  # when the last one that waits will have been served

    async def start(self, context: ssl.SSLContext | None = None) -> asyncio.Server:
        server = await asyncio.start_server(
            self._connection, "127.0.0.1", 0, backlog=2048, ssl=context
        )
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                method, path, _ = head.split(" ", 2)
                length = 0
                for line in head.split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        length = int(line.split(":")[1])
                body = await reader.readexactly(length)
                read_ns = monotonic_ns()
                if method == "GET":
                    self._get(path, writer)
                    continue
                async with self._places:
                    if not await self._post(path, json.loads(body), read_ns, writer):
                        break
        writer.close()

    def _get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/stamps":
            return self._json(writer, 200, self.stamps)
        if path in self.script.tells:
            told = self.script.tells[path]
            return None if told is None else self._json(writer, 200, told)
        if path != "/v1/models":
            return self._json(writer, 404, {"error": {"message": "no such path"}})
        data = self.script.models
        return self._json(
            writer,
            200,
            {"data": [{"id": "scripted", "owned_by": "test"}] if data is None else data},
        )

    def _json(self, writer: asyncio.StreamWriter, status: int, value: object) -> None:
        text, name = json.dumps(value).encode(), self.script.server_header
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, f"Server: {name}\r\n".encode() if name else b"", len(text), text)
        )

    async def _post(
        self, path: str, body: dict, read_ns: int, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer; False closes the connection."""
        script = self.script
        self.bodies.append(body)
        chat = path.endswith("/chat/completions")
        if script.no_completions and not chat:
            self._json(writer, 404, {"error": {"message": "no such endpoint"}})
            return True
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        stamps = self.stamps.setdefault(str(prompt), [])
        stamps.append(read_ns)
        fault = None
        if script.fault and not prompt.startswith("def add"):  # let the first try pass
            self.struck += 1
            fault = script.fault if self.struck % script.fault_every == 0 else None
        match fault:
            case "503":
                self._json(writer, 503, {"error": {"message": "no room\nnow"}})
                return True
            case "not_a_stream":
                self._json(writer, 200, {"choices": [{"text": "whole"}]})
                return True
            case "close_at_once":
                return False
            case "garbage":
                writer.write(b"\x00\x01 this is not HTTP\r\n\r\n")
                return False
            case "half_head":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
                await asyncio.sleep(0.01)
                return False
        if script.service_s:
            now = asyncio.get_running_loop().time()
            self._free = max(self._free, now) + self._dice.expovariate(1 / script.service_s)
            await asyncio.sleep(self._free - now)
        if body.get("stream") is False:
            await asyncio.sleep(script.ttft_s + script.itl_s * (script.events - 1))
            self._json(writer, 200, self._whole())
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        when = asyncio.get_running_loop().time()
        if fault == "stall":
            await asyncio.sleep(30)
        for index in range(script.events):
            when += script.itl_s if index else script.ttft_s
            await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))
            if index == script.events // 2 and fault is not None:
                match fault:
                    case "early_close":
                        return False
                    case "reset":
                        linger = struct.pack("ii", 1, 0)  # close sends RST
                        peer = writer.get_extra_info("socket")
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        writer.transport.abort()
                        return False
                    case "bad_json":
                        self._event(writer, b'{"choices": [')
                    case "bad_utf8":
                        self._event(writer, b'{"choices": [{"text": "\xff\xfe"}]}')
                    case "error_event":
                        self._event(writer, b'{"error": {"message": "out of memory"}}')
                    case "truncated":
                        writer.write(b"0\r\n\r\n")
                        return True
            stamps.append(monotonic_ns())
            self._event(writer, self._payload(index, chat))
        self._finish(writer, chat, fault)
        return True

    def _whole(self) -> dict:
        """A completion in one piece."""
        script = self.script
        text = "".join(f"w{index} " for index in range(script.events))
        usage = {"prompt_tokens": 7, "completion_tokens": script.events * script.tokens_per_event}
        return {"choices": [{"index": 0, "text": text, "finish_reason": "length"}], "usage": usage}

    def _payload(self, index: int, chat: bool) -> bytes:
        script = self.script
        word = f"w{index} "
        choice: dict = {"index": 0, "finish_reason": None}
        if not chat:
            choice["text"] = word
        elif script.chat and index == 0:
            choice["delta"] = {"reasoning_content": word}
        elif script.chat and index == script.events - 1:
            choice["delta"] = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        else:
            choice["delta"] = {"content": word}
        if script.ids:
            choice["token_ids"] = list(range(script.tokens_per_event))
        chunk: dict = {"choices": [choice]}
        if script.usage == "every":
            chunk["usage"] = self._usage((index + 1) * script.tokens_per_event)
        return json.dumps(chunk).encode()

    def _usage(self, tokens: int) -> dict:
        return {
            "prompt_tokens": 7,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": 3},
        }

    def _finish(self, writer: asyncio.StreamWriter, chat: bool, fault: str | None) -> None:
        script = self.script
        last: dict = {"index": 0, "finish_reason": "stop" if script.eos else "length"}
        last |= {"delta": {}} if chat else {"text": ""}
        tokens = script.events * script.tokens_per_event + script.eos
        chunk: dict = {"choices": [last]}
        if script.usage == "every":
            chunk["usage"] = self._usage(tokens)
        self._event(writer, json.dumps(chunk).encode())
        if script.usage not in ("none", "every"):
            tokens = tokens if script.usage == "final" else int(script.usage)
            usage = {"choices": [], "usage": self._usage(tokens)}
            self._event(writer, json.dumps(usage).encode())
        self._event(writer, b"[DONE]")
        if not script.hang_after_done:
            writer.write(b"0\r\n\r\n")

    def _event(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        eol = self.script.eol.encode()
        text = b"data: " + data + eol + eol
        if self.script.comments:
            text = b": ping" + eol + eol + b"event: message" + eol + b"id: 4" + eol + text
        size = self.script.cut or len(text)
        for start in range(0, len(text), size):
            piece = text[start : start + size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))


@contextlib.asynccontextmanager
async def serving(
    context: ssl.SSLContext | None = None, **script: object
) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(Script(**script))
    server = await scripted.start(context)
    try:
        yield scripted
    finally:
        server.close()


async def _main() -> None:
    scripted = ScriptedServer(msgspec.json.decode(sys.argv[1], type=Script))
    server = await scripted.start()
    print(json.dumps({"url": scripted.url}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
