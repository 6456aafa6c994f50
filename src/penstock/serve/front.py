"""The front door: who may come in, how many, with how much, and what came of it."""

from __future__ import annotations

import hmac
import logging
from hashlib import sha256
from time import monotonic

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from penstock.serve import errors, logs, request_id
from penstock.serve.entry import Entry
from penstock.serve.errors import ApiError
from penstock.serve.metrics import Metrics
from penstock.serve.options import ServeOptions
from penstock.serve.request_id import RequestIds

log = logging.getLogger(__name__)

# For probes, scrapers and the curious, who hold no key and must get in when all is full.
OPEN_PATHS = ("/health", "/metrics", "/version")


class Front:
    """ASGI application around `app`, from a request's head to its line in the log.

    Keys are compared as digests and in constant time: how long a refusal takes
    tells nothing of a key.
    """

    def __init__(self, app: FastAPI, metrics: Metrics, options: ServeOptions) -> None:
        self._app = app
        self._paths = {route.path for route in app.routes if isinstance(route, Route)}
        self._metrics = metrics
        self._options = options
        self._keys = [_digest(key.encode()) for key in options.api_keys]
        self._open: set[Entry] = set()
        self._ids = RequestIds()

    @property
    def answering(self) -> bool:
        """Whether any request has arrived whole and has not been answered whole."""
        return any(entry.received for entry in self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        endpoint = path if path in self._paths else "(unknown)"
        entry = Entry(self._metrics, endpoint, self._ids.take(scope["headers"]))
        entry.enter(scope)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._options.max_body:
                    limit = f"{self._options.max_body:,} bytes, the limit (--max-body)"
                    raise HTTPException(413, f"The body is longer than {limit}.")
                if not message.get("more_body", False):
                    entry.received, entry.arrived = True, monotonic()
            return message

        def noted(message: Message) -> object:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                name = (request_id.HEADER, entry.id.encode())
                message["headers"] = [*message.get("headers", ()), name]
            return send(message)

        refusal = None if path in OPEN_PATHS else self._refusal(scope)
        self._open.add(entry)
        try:
            if refusal is None:
                await self._app(scope, counted, noted)  # type: ignore[arg-type]
            else:
                entry.outcome = refusal.outcome
                await refusal.response()(scope, receive, noted)  # type: ignore[arg-type]
        finally:
            self._ids.release(entry.id)
            self._open.remove(entry)
            self._end(scope["method"], entry)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if self._keys and not self._has_key(scope):
            return errors.UNAUTHORIZED
        if len(self._open) >= self._options.max_open:
            return errors.too_many_open(self._options.max_open)
        return None

    def _has_key(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        # All are compared, whichever fits.
        fits = [hmac.compare_digest(digest, known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(fits)

    def _end(self, method: str, entry: Entry) -> None:
        if entry.endpoint not in OPEN_PATHS:
            self._metrics.ended(entry)
        elif entry.status == 200:
            return  # a probe each second would hide everything else
        logs.event(
            log,
            "request",
            id=entry.id,
            method=method,
            endpoint=entry.endpoint,
            status=entry.status,
            outcome=entry.outcome,
            prompt_tokens=entry.prompt_tokens,
            cached_tokens=entry.cached_tokens,
            output_tokens=entry.output_tokens,
            queue_s=_rounded(min((timing.queue_s for timing in entry.timings), default=None)),
            ttft_s=_rounded(entry.first and entry.first - entry.arrived),
            e2e_s=_rounded(monotonic() - entry.arrived),
        )


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
