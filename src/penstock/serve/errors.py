"""Errors in OpenAI's shape, and which exception becomes which."""

from __future__ import annotations

import math

import msgspec
from starlette.responses import Response

from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve.client import EngineDied, EngineError


class ErrorBody(msgspec.Struct):
    """The object under `error` in every answer that is not a success."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ApiError(Exception):
    """An answer other than success: HTTP `status`, `body`, and extra headers."""

    def __init__(self, status: int, body: ErrorBody, headers: dict[str, str] | None = None) -> None:
        super().__init__(body.message)
        self.status = status
        self.body = body
        self.headers = headers or {}

    @property
    def outcome(self) -> str:
        """The label under which `/metrics` counts it."""
        return self.body.code or self.body.type

    def encode(self) -> bytes:
        """JSON: `{"error": {"message", "type", "param", "code"}}`."""
        return msgspec.json.encode({"error": self.body})

    def response(self) -> Response:
        """Return it as an HTTP answer."""
        return Response(self.encode(), self.status, self.headers, "application/json")


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """The request itself must change (400)."""
    return ApiError(400, ErrorBody(message, "invalid_request_error", param, code))


def unavailable(message: str, code: str, retry_after_s: float | None = None) -> ApiError:
    """Nothing is wrong with the request; this server cannot serve it now (503)."""
    headers = {} if retry_after_s is None else _retry_after(retry_after_s)
    return ApiError(503, ErrorBody(message, "server_error", None, code), headers)


def past_deadline(deadline_s: float) -> ApiError:
    """The request was not finished in the time it has (504)."""
    message = (
        f"The request was not finished after {deadline_s:g} s, the limit that its deadline_s or "
        "this server (--deadline) sets. Ask for fewer tokens, or when less is running."
    )
    return ApiError(504, ErrorBody(message, "server_error", None, "deadline_exceeded"))


def too_many_open(limit: int) -> ApiError:
    """The server holds as many requests as it may (429)."""
    message = f"{limit:,} requests are open, the limit of this server (--max-open). Try again."
    return _busy(message, "too_many_requests", 1)


UNAUTHORIZED = ApiError(
    401,
    ErrorBody(
        "This server wants an API key, and this request has none that it knows. "
        "Send it as Authorization: Bearer KEY.",
        "invalid_request_error",
        None,
        "invalid_api_key",
    ),
    {"WWW-Authenticate": "Bearer"},
)


# What may be raised while a request is served, and is answered with its own status.
ANSWERED = (ApiError, RequestRefused, QueueFull, EngineError)


def of_exception(error: Exception) -> ApiError:
    """Return the answer for what went wrong while serving a request."""
    match error:
        case ApiError():
            return error
        case RequestRefused():
            return invalid(str(error), error.field)
        case QueueFull():
            return _busy(str(error), "queue_full", error.retry_after_s)
        case EngineDied():
            return unavailable(str(error), "engine_dead")
        case EngineError():
            return ApiError(500, ErrorBody(str(error), "server_error", None, "engine_error"))
        case _:
            message = "The server failed at this request; its log says more."
            return ApiError(500, ErrorBody(message, "server_error", None, "internal_error"))


def _busy(message: str, code: str, retry_after_s: float) -> ApiError:
    body = ErrorBody(message, "rate_limit_error", None, code)
    return ApiError(429, body, _retry_after(retry_after_s))


def _retry_after(seconds: float) -> dict[str, str]:
    # Whole seconds (RFC 9110, 10.2.3), and at least one.
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
