"""With a key the door is locked, but for those who look after the server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock import cli
from penstock.serve import server as server_module
from penstock.serve.options import ServeOptions
from tests.serve.conftest import Server, StartEmbedded, StartFake

KEYS = ["sk-first-0123456789", "sk-second-abcdef"]
TEXT = "/v1/completions"
BODY = json.dumps({"prompt": "abc", "max_tokens": 2})


@pytest.fixture(scope="module")
def locked(start_fake: StartFake) -> Iterator[Server]:
    with start_fake(server={"api_keys": KEYS}) as server:
        yield server


def ask(server: Server, path: str, authorization: str | None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    headers = {"Content-Type": "application/json"}
    if authorization is not None:
        headers["Authorization"] = authorization
    method = "POST" if path == TEXT else "GET"
    connection.request(method, path, BODY if method == "POST" else None, headers)
    return connection.getresponse()


@pytest.mark.parametrize("path", [TEXT, "/v1/models", "/nowhere", "/openapi.json"])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEYS[0][:-1]}",
        f"Bearer {KEYS[0]}x",
        f"Bearer {KEYS[0]},{KEYS[1]}",
        f"Basic {KEYS[0]}",
        KEYS[0],
        "Bearer \xff\xfe",
    ],
)
def test_without_a_known_key(locked: Server, path: str, authorization: str | None) -> None:
    answer = ask(locked, path, authorization)
    assert answer.status == 401
    assert answer.getheader("www-authenticate") == "Bearer"
    error = json.loads(answer.read())["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert "Authorization: Bearer" in error["message"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_a_key(locked: Server, key: str, scheme: str) -> None:
    assert ask(locked, TEXT, f"{scheme} {key}").status == 200


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_probes_need_none(locked: Server, path: str) -> None:
    assert ask(locked, path, None).status == 200


def test_keys_are_shown_nowhere(locked: Server) -> None:
    models = ask(locked, "/v1/models", f"Bearer {KEYS[0]}").read().decode()
    metrics = ask(locked, "/metrics", None).read().decode()
    engine = Path(f"/proc/{locked.engine_pid()}")
    shown = models + metrics + (engine / "cmdline").read_text() + (engine / "environ").read_text()
    assert not any(key in shown for key in KEYS)
    assert KEYS[0] not in repr(ServeOptions(api_keys=tuple(KEYS)))


@pytest.mark.parametrize("key", ["", "with\nline", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="api_keys") as refused:
        ServeOptions(api_keys=("good-key", key))
    assert "good-key" not in str(refused.value)


def test_an_empty_variable_does_not_open_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEYS", " , ")
    result = CliRunner().invoke(cli.app, ["serve", "embedded", "--port", "0"])
    assert result.exit_code == 1
    assert "PENSTOCK_API_KEYS is set and holds no key" in result.stderr


def test_keys_of_the_environment_and_of_the_command_line(start_embedded: StartEmbedded) -> None:
    keys = f"{KEYS[0]}, {KEYS[1]},"
    with start_embedded("--api-key", "sk-3", "--api-key", "sk-4", PENSTOCK_API_KEYS=keys) as server:
        for key in [*KEYS, "sk-3", "sk-4"]:
            assert ask(server, "/v1/models", f"Bearer {key}").status == 200
        assert ask(server, "/v1/models", "Bearer ").status == 401
        assert ask(server, "/v1/models", None).status == 401


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("127.0.0.1", (), False), ("0.0.0.0", (), True), ("0.0.0.0", ("k",), False)],
)
def test_an_open_door_to_the_street_is_warned_of(
    caplog: pytest.LogCaptureFixture, host: str, keys: tuple[str, ...], warned: bool
) -> None:
    with server_module._bound(host, 0) as listener:  # bound, and listening to nobody
        server_module._warn_if_open_to_all(listener, ServeOptions(host=host, api_keys=keys))
    assert ("without an API key" in caplog.text) == warned
