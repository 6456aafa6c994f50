"""What `/openapi.json` says beyond what FastAPI finds out by itself.

Answers are msgspec structs and errors have one shape of ours, so both are
described here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from penstock.serve.errors import ErrorBody
from penstock.serve.replies import (
    DeltaChoice,
    Detokenized,
    MessageChoice,
    Reply,
    TextChoice,
    Tokenized,
    Version,
)


class ErrorReply(msgspec.Struct):
    """Every answer that is not a success."""

    error: ErrorBody


_TYPES: dict[str, Any] = {
    "Completion": Reply[TextChoice],
    "ChatCompletion": Reply[MessageChoice],
    "ChatCompletionChunk": Reply[DeltaChoice],
    "Tokenized": Tokenized,
    "Detokenized": Detokenized,
    "Version": Version,
    "Error": ErrorReply,
}

_ERRORS = {
    400: "The request is wrong; `param` says where",
    401: "No API key that this server knows",
    404: "Another model than the one served",
    408: "The request was not complete in time",
    413: "The body is too long",
    429: "The queue is full, or too many requests are open; see Retry-After",
    500: "The engine or the server failed at this request",
    503: "Nothing new is served now",
    504: "The request's deadline has passed",
}

Responses = dict[int | str, dict[str, Any]]


def answers(name: str, *, chunk: str | None = None) -> Responses:
    """Describe the answers of an endpoint: `name`, a stream of `chunk`, or an error."""
    content: dict[str, Any] = {"application/json": {"schema": _ref(name)}}
    if chunk is not None:
        # Each event's data is one such object as JSON, or what ended the stream.
        said = {
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [_ref(chunk), _ref("Error")]},
        }
        data = {"type": "string", "anyOf": [{"const": "[DONE]"}, said]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {"itemSchema": event}
    return {200: {"description": "Success", "content": content}, **failures(*_ERRORS)}


def failures(*statuses: int) -> Responses:
    """Describe the errors of an endpoint."""
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def describe(app: FastAPI) -> None:
    """Let `app` describe its answers, and leave out FastAPI's own 422, which nobody gets."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            schemas = schema["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas.update(_schemas())
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> dict[str, Any]:
    refs, components = msgspec.json.schema_components(
        list(_TYPES.values()), ref_template="#/components/schemas/Reply.{name}"
    )
    schemas = {f"Reply.{name}": schema for name, schema in components.items()}
    return schemas | dict(zip(_TYPES, refs, strict=True))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
