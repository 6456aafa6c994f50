"""The HTTP endpoints."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from penstock import __version__
from penstock.engine.request import SamplingParams
from penstock.serve import errors, metrics
from penstock.serve.connection import BodyLimit
from penstock.serve.errors import ApiError, ErrorBody
from penstock.serve.generate import GenerateResponse
from penstock.serve.protocol import FIELDS, BadParameter, ChatBody, CompletionBody, GenerateBody
from penstock.serve.replies import ChatShape, CompletionShape, Shape
from penstock.serve.service import Service


def create_app(service: Service) -> FastAPI:
    """Return the application that serves `service`."""
    app = FastAPI(title="Penstock", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    for kind in (*errors.ANSWERED, BadParameter, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody) -> Response:
        service.check_healthy()
        service.check_model(body.model)
        prompt = body.single_prompt()
        ids = await service.encode(prompt) if isinstance(prompt, str) else prompt
        service.check_token_ids(ids, "prompt")
        return _generate(CompletionShape(), body, ids, body.params())

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody) -> Response:
        service.check_healthy()
        service.check_model(body.model)
        ids = await service.encode_chat([message.as_dict() for message in body.messages])
        return _generate(ChatShape(), body, ids, body.params())

    def _generate(
        shape: Shape, body: GenerateBody, ids: list[int], params: SamplingParams
    ) -> Response:
        service.check_token_ids(body.stop_token_ids, "stop_token_ids")
        return GenerateResponse(service, shape, body, ids, params)

    @app.get("/v1/models")
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
            },
        }
        return _json({"object": "list", "data": [model]})

    @app.get("/health")
    async def health() -> Response:
        service.check_healthy()
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    return app


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _answer_error(_: Request, error: Exception) -> Response:
    answer = _api_error(error)
    return Response(
        answer.encode(),
        status_code=answer.status,
        headers=answer.headers,
        media_type="application/json",
    )


def _api_error(error: Exception) -> ApiError:
    match error:
        case BadParameter():
            return errors.invalid(str(error), error.param, error.code)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            # The router's (no such path, or not with this method) or BodyLimit's.
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
