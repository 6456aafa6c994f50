"""Errors in OpenAI's shape, and which exception becomes which."""

from __future__ import annotations

import math

import msgspec

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


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """The request itself must change (400)."""
    return ApiError(400, ErrorBody(message, "invalid_request_error", param, code))


def unavailable(message: str, code: str) -> ApiError:
    """Nothing is wrong with the request; this server cannot serve it now (503)."""
    return ApiError(503, ErrorBody(message, "server_error", None, code))


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
            # Whole seconds (RFC 9110, 10.2.3), and at least one.
            retry_after = str(max(1, math.ceil(error.retry_after_s)))
            body = ErrorBody(str(error), "rate_limit_error", None, "queue_full")
            return ApiError(429, body, {"Retry-After": retry_after})
        case EngineDied():
            return unavailable(str(error), "engine_dead")
        case EngineError():
            return ApiError(500, ErrorBody(str(error), "server_error", None, "engine_error"))
        case _:
            message = "The server failed at this request; its log says more."
            return ApiError(500, ErrorBody(message, "server_error", None, "internal_error"))
