"""The HTTP endpoints."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from penstock import __version__
from penstock.serve import errors, metrics, openapi
from penstock.serve.entry import Entry
from penstock.serve.errors import ApiError, ErrorBody
from penstock.serve.fields import BadParameter
from penstock.serve.generate import GenerateResponse
from penstock.serve.preparing import Preparing
from penstock.serve.protocol import (
    FIELDS,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
)
from penstock.serve.replies import Detokenized, Tokenized, Version
from penstock.serve.service import Service


def create_app(service: Service) -> FastAPI:
    """Return the application that serves `service`."""
    app = FastAPI(title="Penstock", version=__version__, docs_url=None, redoc_url=None)
    for kind in (*errors.ANSWERED, BadParameter, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)
    openapi.describe(app)
    preparing = Preparing(service)

    @app.post("/v1/completions", responses=openapi.answers("Completion", chunk="Completion"))
    async def completions(body: CompletionBody) -> Response:
        service.check_healthy()
        return GenerateResponse(service, await preparing.completion(body))

    @app.post(
        "/v1/chat/completions",
        responses=openapi.answers("ChatCompletion", chunk="ChatCompletionChunk"),
    )
    async def chat_completions(body: ChatBody) -> Response:
        service.check_healthy()
        return GenerateResponse(service, await preparing.chat(body))

    @app.post("/tokenize", responses=openapi.answers("Tokenized"))
    async def tokenize(body: TokenizeBody) -> Response:
        ids = await preparing.tokens(body)
        spelled = [service.tokenizer.token(id_) or "" for id_ in ids]
        strings = spelled if body.return_token_strs else None
        return _json(Tokenized(len(ids), service.engine.facts.max_model_len, ids, strings))

    @app.post("/detokenize", responses=openapi.answers("Detokenized"))
    async def detokenize(body: DetokenizeBody) -> Response:
        return _json(Detokenized(await preparing.text(body)))

    @app.get("/version", responses=openapi.answers("Version"))
    async def version() -> Response:
        return _json(Version(__version__))

    @app.get("/v1/models", responses=openapi.failures(401, 429))
    async def models() -> Response:
        facts = service.engine.facts
        model = {
            "id": facts.name,
            "object": "model",
            "created": service.created,
            "owned_by": "penstock",
            "max_model_len": facts.max_model_len,
            "penstock": {
                **msgspec.to_builtins(facts),
                "version": __version__,
                "options": service.options,
                "compress_prompts": service.shortening and service.shortening.about,
            },
        }
        return _json({"object": "list", "data": [model]})

    @app.get("/health", responses=openapi.failures(503))
    async def health() -> Response:
        service.check_healthy()
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    return app


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    answer = _api_error(error)
    Entry.of(request.scope).outcome = answer.outcome
    return answer.response()


def _api_error(error: Exception) -> ApiError:
    match error:
        case BadParameter():
            return errors.invalid(str(error), error.param, error.code)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            # The router's (no such path, or not with this method) or the front door's.
            body = ErrorBody(str(error.detail), "invalid_request_error", None, None)
            return ApiError(error.status_code, body, dict(error.headers or {}))
        case _:
            return errors.of_exception(error)


def _of_validation(error: RequestValidationError) -> ApiError:
    """Name the first wrong parameter and everything that is wrong with it."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        return errors.invalid(
            f"The body is not JSON: {first['ctx']['error']}.", None, "invalid_json"
        )
    name = _name(first)
    if not name:
        message = "The body must be a JSON object, sent as Content-Type: application/json."
        return errors.invalid(message, None)
    if first["type"] == "extra_forbidden":
        return errors.invalid(f"Unknown parameter: {name}.", name, "unknown_parameter")
    said = dict.fromkeys(problem["msg"] for problem in problems if _name(problem) == name)
    code = "missing_parameter" if first["type"] == "missing" else "invalid_value"
    return errors.invalid(f"{name}: {'; '.join(said)}.", name, code)


def _name(problem: dict[str, Any]) -> str:
    """Where a problem is, as in `messages.0.content`."""
    path = [str(step) for step in problem["loc"][1:]]
    if problem["type"] != "extra_forbidden":
        # From here on pydantic names types that were tried, not parameters.
        path = list(takewhile(lambda step: step.isdecimal() or step in FIELDS, path))
    return ".".join(path)
