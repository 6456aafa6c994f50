"""The server's own OpenAPI, turned against it: whatever it allows is answered as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.conftest import Server, StartFake

TIMEOUT_S = 20
PATHS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]
QUICK, SLOW = 60, 1250  # cases for each


@pytest.fixture(scope="module")
def server(start_fake: StartFake) -> Iterator[Server]:
    """Answers are short, and no token id of a prompt is an order."""
    with start_fake(engine={"max_model_len": 64}, step_s=0, FAKE_DEAF="1") as server:
        yield server


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    host, port = server.address
    return schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")


def serves(context: CheckContext, response: Any, case: Any) -> None:
    """No 5xx, but for a deadline that the body itself set."""
    asked = case.body if isinstance(case.body, dict) else {}
    if response.status_code == 504 and isinstance(asked.get("deadline_s"), float | int):
        assert response.json()["error"]["code"] == "deadline_exceeded"
        return
    assert response.status_code < 500, response.text


CHECKS = [
    serves,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def simplify(body: dict[str, Any], random: Random) -> None:
    """Leave one plain prompt and three parameters."""
    if isinstance(body.get("messages"), list):
        body["messages"] = [{"role": "user", "content": str(random.random())}]
        body.pop("prompt", None)
    names = sorted(body.keys() - {"prompt", "messages", "tokens"})
    for name in random.sample(names, max(0, len(names) - 3)):
        del body[name]


def try_cases(api: Any, path: str, count: int) -> None:
    """Half of the cases are as the schema wants them, half are not.

    Half of them are made simpler: all parameters at once rarely go together.
    """
    operation = api[path]["POST"]
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    statuses: Counter[int] = Counter()
    cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @given(case=cases, prune=st.booleans(), random=st.randoms(use_true_random=False))
    @settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=count)
    def each(case: Any, prune: bool, random: Random) -> None:
        if prune and isinstance(case.body, dict):
            simplify(case.body, random)
        response = case.call(timeout=TIMEOUT_S)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    each()
    assert statuses.total() >= count // 2, statuses
    if count == SLOW:  # a few cases may all be of one kind
        assert min(statuses[200], statuses[400]) > count // 60, statuses


@pytest.mark.parametrize("path", PATHS)
def test_some_cases(api: Any, path: str) -> None:
    try_cases(api, path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_five_thousand_cases(api: Any, path: str) -> None:
    try_cases(api, path, SLOW)


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/version"])
def test_what_takes_no_body(api: Any, path: str) -> None:
    case = api[path]["GET"].Case()
    case.validate_response(case.call(timeout=TIMEOUT_S), checks=CHECKS)


def test_the_schema_says_what_is_answered(server: Server) -> None:
    described = server.get("/openapi.json").body
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (path, method)
            assert "200" in operation["responses"]
    names = described["components"]["schemas"]
    assert {"Completion", "ChatCompletion", "ChatCompletionChunk", "Error"} <= names.keys()
    assert not {"HTTPValidationError", "ValidationError"} & names.keys()
    for body in ("CompletionBody", "ChatBody"):
        assert names[body]["additionalProperties"] is False
        assert names[body]["properties"]["store"]["enum"] == [False, None]
