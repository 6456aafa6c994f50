"""Refusals at admission: each names the field, the numbers and the remedy."""

from __future__ import annotations


class RequestRefused(ValueError):
    """The request can never be served as asked (HTTP 400).

    `field` is the request field to change; the message carries the numbers.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class QueueFull(Exception):
    """The queue has no room now (HTTP 429). `retry_after_s` is an estimate in seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
