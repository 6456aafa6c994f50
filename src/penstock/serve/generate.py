"""One generation request, from its checked body to its last byte."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock.engine.request import GenerateRequest
from penstock.schedule.errors import RequestRefused
from penstock.serve import errors
from penstock.serve.choices import Choices
from penstock.serve.client import Generation
from penstock.serve.connection import ClientGone, while_connected
from penstock.serve.entry import Entry
from penstock.serve.logprobs import Speller
from penstock.serve.pieces import Piece, mean_logprob, merged
from penstock.serve.preparing import Prepared
from penstock.serve.replies import PromptTokens, Reply, Usage
from penstock.serve.service import Service

log = logging.getLogger(__name__)

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

    def __init__(self, service: Service, prepared: Prepared) -> None:
        super().__init__()
        self._service = service
        self._shape = prepared.shape
        self._body = prepared.body
        self._params = prepared.params
        self._shorten = prepared.shorten
        self._original: int | UnsetType = UNSET  # tokens of prompts that were shortened
        self._created = int(time.time())
        self._started = False
        self._take(prepared.prompts)

    def _take(self, prompts: Sequence[list[int]]) -> None:
        """Answer these prompts; nothing of any others may have come yet."""
        self._prompts = prompts
        self._choices = Choices(
            self._body,
            prompts,
            self._service.tokenizer,
            continues=self._shape.continues,
            keep=self._shape.kept_tokens,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. Errors before the first byte are raised, later ones are sent."""
        self._entry = Entry.of(scope)
        self._id = f"{self._shape.id_prefix}{self._entry.id}"
        self._entry.prompt_tokens = self._choices.prompt_tokens
        try:
            self._entry.outcome = await while_connected(receive, self._serve(send))
        except ClientGone:
            self._entry.outcome = "cancelled"
        finally:
            self._entry.cached_tokens = self._choices.cached_tokens
            self._entry.output_tokens = self._choices.output_tokens

    async def _serve(self, send: Send) -> str:
        """Send the answer and return the request's outcome."""
        try:
            return await self._before_the_deadline(send)
        except Exception as error:
            if not self._started:
                raise
            # The status line is gone; the error is the last event, and no
            # [DONE] follows to make it look like a finished answer.
            failure = errors.of_exception(error)
            if failure.body.code == "internal_error":
                log.exception("A stream failed")
            await send({"type": "http.response.body", "body": _event(failure.encode())})
            return failure.outcome

    async def _before_the_deadline(self, send: Send) -> str:
        limits = [self._body.deadline_s, self._service.deadline_s]
        limit = min((limit for limit in limits if limit is not None), default=None)
        left = None if limit is None else self._entry.arrived + limit - time.monotonic()
        try:
            async with asyncio.timeout(left) as deadline, AsyncExitStack() as stack:
                if self._shorten is not None:
                    self._original = self._choices.prompt_tokens
                    self._take(await self._shorten())
                    self._entry.prompt_tokens = self._choices.prompt_tokens
                generations = await self._submit(stack)
                pieces = await stack.enter_async_context(aclosing(self._pieces(generations)))
                send_answer = self._send_stream if self._body.stream else self._send_whole
                return await send_answer(pieces, send)
        except TimeoutError:
            if not deadline.expired():
                raise
            assert limit is not None
            raise errors.past_deadline(limit) from None

    async def _submit(self, stack: AsyncExitStack) -> list[Generation]:
        """Submit all prompts at once. When `stack` is left, those accepted are closed."""

        async def accepted(prompt: list[int]) -> Generation:
            request = GenerateRequest(
                id=uuid.uuid4().hex,  # never the client's own, which it may use again at once
                prompt=prompt,
                params=self._params,
                priority=self._body.priority,
            )
            generation = await self._service.engine.generate(request)
            stack.callback(generation.close)
            return generation

        results = await asyncio.gather(*map(accepted, self._prompts), return_exceptions=True)
        generations = [result for result in results if isinstance(result, Generation)]
        for result in results:
            if isinstance(result, RequestRefused) and result.field == "prompt":
                raise RequestRefused(str(result), field=self._shape.prompt_field) from result
            if isinstance(result, BaseException):
                raise result
        return generations

    async def _send_whole(self, pieces: AsyncIterator[Piece], send: Send) -> str:
        of_choice: dict[int, list[Piece]] = {}
        async for piece in pieces:
            of_choice.setdefault(piece.index, []).append(piece)
        whole = self._best([merged(of_choice[index]) for index in sorted(of_choice)])
        choices = [self._shape.whole(piece) for piece in whole]
        reply = self._reply(self._shape.whole_object, choices, self._usage())
        if self._body.prompt_logprobs is not None:
            self._add_prompt_logprobs(reply, self._body.prompt_logprobs)
        content = _encode(reply)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return str(choices[-1].finish_reason)

    def _best(self, whole: list[Piece]) -> list[Piece]:
        """The `n` likeliest of each prompt's choices, numbered as the client asked for them."""
        n = self._body.n
        sampled = len(whole) // len(self._prompts)
        if sampled > n:
            groups = [whole[start : start + sampled] for start in range(0, len(whole), sampled)]
            whole = [
                piece
                for group in groups
                for piece in sorted(group, key=mean_logprob, reverse=True)[:n]
            ]
            for index, piece in enumerate(whole):
                piece.index = index
        return whole

    def _add_prompt_logprobs(self, reply: Reply[Any], top: int) -> None:
        speller = Speller(self._service.tokenizer)
        of_prompts = zip(self._prompts, self._choices.prompt_logprobs, strict=True)
        self._shape.add_prompt_logprobs(
            reply, [speller.prompt(ids, logprobs, top) for ids, logprobs in of_prompts]
        )

    async def _send_stream(self, pieces: AsyncIterator[Piece], send: Send) -> str:
        """Send a chunk for each piece, and with the last one all that ends a stream."""
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        options = self._body.stream_options
        kind = self._shape.chunk_object
        async for piece in pieces:
            if (choice := self._shape.chunk(piece)) is None:
                continue
            finish = choice.finish_reason
            reply = self._reply(kind, [choice])
            if options.continuous_usage_stats:
                reply.usage = self._usage()
            elif options.include_usage:
                reply.usage = None
            event = _event(_encode(reply))
            if self._choices.open:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        if options.include_usage:
            event += _event(_encode(self._reply(kind, [], self._usage())))
        await send({"type": "http.response.body", "body": event + _event(b"[DONE]")})
        return str(finish)

    def _reply(self, kind: str, choices: list[Any], usage: Usage | UnsetType = UNSET) -> Reply[Any]:
        model = self._service.engine.facts.name
        return Reply(self._id, kind, self._created, model, choices, usage)

    def _usage(self) -> Usage:
        choices = self._choices
        prompt, output = choices.prompt_tokens, choices.output_tokens
        details = PromptTokens(choices.cached_tokens, self._original)
        return Usage(prompt, output, prompt + output, details)

    async def _pieces(self, generations: Sequence[Generation]) -> AsyncGenerator[Piece]:
        """Yield the pieces, and tell the entry of this request."""
        async with aclosing(self._choices.pieces(generations)) as pieces:
            async for piece in pieces:
                if piece.text:
                    self._entry.text(piece.index, piece.output_tokens)
                if piece.timing is not None:
                    self._entry.timings.append(piece.timing)
                yield piece


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data
