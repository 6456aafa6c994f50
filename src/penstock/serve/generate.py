"""One generation request, from its checked body to its last byte."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.schedule.errors import RequestRefused
from penstock.serve import errors
from penstock.serve.client import Generation
from penstock.serve.connection import ClientGone, while_connected
from penstock.serve.pieces import Piece, pieces
from penstock.serve.protocol import GenerateBody
from penstock.serve.replies import Choices, Reply, Shape, Usage
from penstock.serve.service import Service

_encode = msgspec.json.Encoder().encode

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy must not collect what we flush each step
]


class GenerateResponse(Response):
    """The answer to one generation request, plain or streamed.

    It is an ASGI application of its own, so that one place submits the
    request, sends what comes of it, and notices that the client has gone.
    """

    def __init__(
        self,
        service: Service,
        shape: Shape,
        body: GenerateBody,
        prompt: list[int],
        params: SamplingParams,
    ) -> None:
        super().__init__()
        self._service = service
        self._shape = shape
        self._body = body
        self._id = shape.id_prefix + uuid.uuid4().hex
        self._created = int(time.time())
        self._arrived = time.monotonic()
        self._request = GenerateRequest(id=self._id, prompt=prompt, params=params)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. Errors before the first byte are raised, later ones are sent."""
        outcome = "cancelled"
        try:
            outcome = await while_connected(receive, self._serve(send))
        except ClientGone:
            pass
        except Exception as error:
            outcome = errors.of_exception(error).outcome
            raise
        finally:
            self._service.metrics.requests.labels(outcome).inc()

    async def _serve(self, send: Send) -> str:
        """Send the answer and return the request's outcome."""
        async with await self._submit() as generation:
            decoding = self._service.tokenizer.stream(continues=self._shape.continues)
            coming = self._timed(pieces(generation, decoding, self._body.stop_strings))
            if self._body.stream:
                return await self._send_stream(coming, send)
            return await self._send_whole(coming, send)

    async def _submit(self) -> Generation:
        try:
            return await self._service.engine.generate(self._request)
        except RequestRefused as error:
            if error.field != "prompt":
                raise
            raise RequestRefused(str(error), field=self._shape.prompt_field) from error

    async def _send_whole(self, coming: AsyncIterator[Piece], send: Send) -> str:
        texts = []
        async for piece in coming:
            texts.append(piece.text)
        choices = self._shape.whole("".join(texts), piece.finish_reason)
        content = _encode(self._reply(self._shape.whole_object, choices, Usage.of(piece)))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return str(piece.finish_reason)

    async def _send_stream(self, coming: AsyncIterator[Piece], send: Send) -> str:
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        try:
            outcome, last = await self._send_chunks(coming, send)
        except Exception as error:
            # The status line is gone; the error is the last event, and no
            # [DONE] follows to make it look like a finished answer.
            failure = errors.of_exception(error)
            outcome, last = failure.outcome, _event(failure.encode())
        await send({"type": "http.response.body", "body": last})
        return outcome

    async def _send_chunks(self, coming: AsyncIterator[Piece], send: Send) -> tuple[str, bytes]:
        """Send a chunk for each piece; return the outcome and the bytes still to be sent."""
        options = self._body.stream_options
        kind = self._shape.chunk_object
        first = True
        async for piece in coming:
            reply = self._reply(kind, self._shape.chunk(piece.text, piece.finish_reason, first))
            if options.continuous_usage_stats:
                reply.usage = Usage.of(piece)
            elif options.include_usage:
                reply.usage = None
            first = False
            event = _event(_encode(reply))
            if piece.finish_reason is None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        if options.include_usage:
            event += _event(_encode(self._reply(kind, [], Usage.of(piece))))
        return str(piece.finish_reason), event + _event(b"[DONE]")

    def _reply(self, kind: str, choices: Choices, usage: Usage | UnsetType = UNSET) -> Reply:
        model = self._service.engine.facts.name
        return Reply(self._id, kind, self._created, model, choices, usage)

    async def _timed(self, coming: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """Pass `coming` on, and put its times into the histograms."""
        metrics = self._service.metrics
        first: tuple[float, int] | None = None
        async for piece in coming:
            now = time.monotonic()
            if first is None:
                first = now, piece.output_tokens
                metrics.time_to_first_token.observe(now - self._arrived)
            if piece.finish_reason is not None:
                metrics.request_latency.observe(now - self._arrived)
                later = piece.output_tokens - first[1]
                if later:
                    metrics.time_per_output_token.observe((now - first[0]) / later)
            yield piece


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
