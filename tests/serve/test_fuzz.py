"""Whatever the body, the answer is an answer: served, or refused in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.serve.fields import NOT_SERVED
from penstock.serve.protocol import FIELDS
from tests.serve.conftest import Server

NUMBERS = st.integers() | st.floats() | st.integers(-3, 300)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted(FIELDS | NOT_SERVED.keys() - {"max_completion_tokens"}))
ROLES = st.sampled_from(["user", "system", "assistant", "tool", ""])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": VALUES | TEXTS}), max_size=3)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(prompt=VALUES | TEXTS, messages=MESSAGES, more=st.dictionaries(NAMES, VALUES, max_size=2))
def test_no_body_breaks_the_server(
    fake: Server, path: str, prompt: Any, messages: Any, more: dict[str, Any]
) -> None:
    asked = {"prompt": prompt} if path == "/v1/completions" else {"messages": messages}
    answer = fake.post(path, {**asked, "max_tokens": 3, **more})
    if answer.status != 200:
        error = answer.body["error"]
        assert answer.status in (400, 404), error
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
