"""Engines behind HTTP: completions of token ids, greedy, of forced length, not streamed.

Every request has a connection and a thread of its own; the threads sleep
until their answer is whole, so that the client takes next to nothing of the
cores it shares with the server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Load, NotMeasured, Started
from benchmarks.peers.environment import last_words
from benchmarks.peers.process import child, wait_until


@dataclass(slots=True)
class Server:
    """A server that is up; `Running`."""

    pid: int
    port: int
    model: str
    asking: Mapping[str, Any]  # what this server wants beside the common fields
    started: Started

    def run(self, load: Load, limit_s: float) -> float:
        """See `Running`."""
        bodies = [
            json.dumps(
                {
                    "model": self.model,
                    "prompt": list(prompt),
                    "max_tokens": output,
                    "temperature": 0,
                    "ignore_eos": True,
                    **self.asking,
                }
            )
            for prompt, output in zip(load.prompts, load.outputs, strict=True)
        ]
        with ThreadPoolExecutor(len(bodies)) as pool:
            begin = time.perf_counter()
            made = list(pool.map(lambda body: self._complete(body, limit_s), bodies))
            seconds = time.perf_counter() - begin
        if made != list(load.outputs):
            raise NotMeasured(f"answers have other lengths than asked: {made[:4]} ...")
        return seconds

    def _complete(self, body: str, limit_s: float) -> int:
        """Output tokens of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit_s)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except TimeoutError as error:
            raise NotMeasured(f"not done after {limit_s:g} s") from error
        except OSError as error:
            raise NotMeasured(f"the connection broke: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise NotMeasured(f"answered {answer.status}: {text[:300].decode('utf-8', 'replace')}")
        return int(json.loads(text)["usage"]["completion_tokens"])


@contextlib.contextmanager
def server(
    words: Sequence[str],
    log: Path,
    *,
    asking: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    port: int,
    version: str,
) -> Iterator[Server]:
    """Start a server on a port and wait until `/v1/models` names its model."""
    with child(words, log, variables) as process:
        try:
            wait_until(lambda: _model(port) is not None, process)
        except NotMeasured as error:
            raise NotMeasured(f"{error}: {last_words(log)}") from error
        entry = _model(port) or {}
        facts = entry.get("penstock", {})
        started = Started(version, list(words[1:]), facts)
        yield Server(process.pid, port, str(entry.get("id")), asking or {}, started)


def _model(port: int) -> dict[str, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        if answer.status != 200:
            return None
        found: dict[str, Any] = json.loads(answer.read())["data"][0]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        return None
    else:
        return found
    finally:
        connection.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
