"""One line for each request, with what happened and never with what was said."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.serve import logs
from tests.serve import http_client
from tests.serve.conftest import Server, StartFake
from tests.serve.fake_engine import FAIL, RAISE

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
SECRET = "Xyzzy7"
KEY = "sk-plugh-0123"


@pytest.fixture(scope="module", params=["json", "text"])
def logged(start_fake: StartFake, tmp_path_factory: pytest.TempPathFactory, request: Any):
    """A server that has been asked all kinds of things, and what it wrote."""
    path = tmp_path_factory.mktemp("log") / "stderr"
    options = {"log_format": request.param, "api_keys": [KEY], "max_body": 100_000}
    with path.open("w") as log, start_fake(server=options, log=log) as server:
        _ask_all_kinds_of_things(server)
    return request.param, path.read_text()


def _ask_all_kinds_of_things(server: Server) -> None:
    def ask(method: str, path: str, body: Any, **headers: str) -> int:
        connection = http.client.HTTPConnection(*server.address, timeout=10)
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"} | headers
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 30}
    text = {"prompt": SECRET, "max_tokens": 30}
    said = [ask("POST", CHAT, chat | {"stream": stream}) for stream in (True, False)]
    said += [ask("POST", TEXT, text | {"stream": stream}) for stream in (True, False)]
    assert said == [200] * 4
    ask("GET", "/health", "")
    ask("POST", TEXT, text | {SECRET: SECRET})
    ask("POST", TEXT, text | {"max_tokens": SECRET})
    ask("POST", TEXT, text | {"stop": [SECRET] * 9})
    ask("POST", TEXT, "{" + SECRET)
    ask("POST", TEXT, (SECRET * 10).encode("utf-16"))
    ask("POST", TEXT, text | {"model": SECRET})
    ask("POST", TEXT, {"prompt": SECRET * 20_000})
    ask("POST", TEXT, {"prompt": SECRET * 1000})
    ask("GET", f"/{SECRET}?key={SECRET}", "")
    ask("POST", TEXT, text, Authorization=f"Bearer {SECRET}")
    ask("POST", TEXT, text, **{"User-Agent": SECRET, "X-Other": SECRET, "Cookie": SECRET})
    ask("POST", TEXT, {"prompt": [*SECRET.encode(), FAIL]})
    with http_client.post_and_hold(server.address, TEXT, text) as connection:
        connection.sendall(f"{SECRET} {SECRET}\r\n\r\n".encode())
        connection.recv(1000)
    ask("POST", TEXT, {"prompt": [*SECRET.encode(), RAISE]})


def test_nothing_that_was_said_is_logged(logged: tuple[str, str]) -> None:
    _, log = logged
    assert log.count("/v1/chat/completions") == 2, "the log is there"
    assert "told to raise" in log, "the engine's own errors are"
    assert SECRET not in log
    assert KEY not in log
    assert str(list(SECRET.encode()))[1:-1] not in log


def test_every_line_is_an_object_with_the_same_beginning(logged: tuple[str, str]) -> None:
    form, log = logged
    if form == "text":
        assert all(
            line.split(" ")[0].isalpha() for line in log.splitlines() if ": request " in line
        )
        return
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "process", "message"]
    assert {line["process"] for line in lines} == {"server", "engine"}
    (traceback,) = [line for line in lines if "exception" in line]
    assert "RuntimeError: told to raise" in traceback["exception"]


def test_a_request_is_one_line_with_its_figures(logged: tuple[str, str]) -> None:
    form, log = logged
    if form == "text":
        return
    lines = [line for line in map(json.loads, log.splitlines()) if line["message"] == "request"]
    assert len({line["id"] for line in lines}) == len(lines)
    for line in lines[:4]:
        assert line["method"] == "POST"
        assert line["endpoint"] == (CHAT if line in lines[:2] else TEXT)
        assert (line["status"], line["outcome"]) == (200, "length")
        assert line["output_tokens"] == 30
        assert line["prompt_tokens"] >= len(SECRET)
        assert line["cached_tokens"] == 0
        assert 0 < line["ttft_s"] < line["e2e_s"] < 10
    refused = [(line["status"], line["outcome"]) for line in lines[4:]]
    for expected in [
        (400, "unknown_parameter"),
        (400, "invalid_value"),
        (400, "invalid_json"),
        (404, "model_not_found"),
        (401, "invalid_api_key"),
        (500, "engine_error"),
        (503, "engine_dead"),
    ]:
        assert expected in refused
    assert 413 in {status for status, _ in refused}
    assert {"(unknown)", TEXT, CHAT} == {line["endpoint"] for line in lines}, "no probe, no path"


@pytest.fixture
def handler() -> Iterator[logging.Handler]:
    before = logging.root.handlers[:]
    logs.set_up("json", "server", quote_exceptions=False)
    yield logging.root.handlers[0]
    logging.root.handlers[:] = before


def test_the_servers_tracebacks_do_not_quote(handler: logging.Handler) -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "Failed", None, info)
    line = json.loads(handler.format(record))
    assert SECRET not in json.dumps(line).replace("raise KeyError(SECRET)", "")
    assert line["exception"].splitlines()[-1] == "KeyError"
    assert Path(__file__).name in line["exception"]
