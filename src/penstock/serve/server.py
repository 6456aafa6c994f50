"""Run the server: bind, load, say where it is, and stop cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec
import uvicorn
import uvloop

from penstock import models
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.serve.app import create_app
from penstock.serve.client import ENGINE_COMMAND, EngineClient
from penstock.serve.connection import Connection
from penstock.serve.front import Front
from penstock.serve.options import KEYS_VARIABLE, ServeOptions
from penstock.serve.service import Service
from penstock.serve.shortening import Shortening
from penstock.serve.signals import Stop
from penstock.serve.supervisor import Supervisor

log = logging.getLogger(__name__)

T = TypeVar("T")


def run(
    model: str,
    engine_options: EngineOptions,
    options: ServeOptions,
    engine_command: Sequence[str] = ENGINE_COMMAND,
) -> None:
    """Serve `model` until SIGTERM or SIGINT; return when everything is stopped.

    Prints one JSON line, `{"url", "model"}`, on standard output once requests
    are served. The first signal drains: requests in flight go on for up to
    `drain_s` and new ones get 503. The second signal ends them at once.
    Later ones are ignored, and when this returns all are: the process is to end.

    Raises `ValueError` or `FileNotFoundError` (no such model), `OSError` (the
    address is not to be had), `EngineDied` (the engine could not load it).
    """
    stop = Stop()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(model, engine_options, options, engine_command, stop))
    finally:
        stop.ignore()


async def _serve(
    model: str,
    engine_options: EngineOptions,
    options: ServeOptions,
    engine_command: Sequence[str],
    stop: Stop,
) -> None:
    tokenizer = Tokenizer.load(models.path(model))
    # Bound before the model is loaded, so that a taken port is told at once.
    with _bound(options.host, options.port) as listener:
        _warn_if_open_to_all(listener, options)
        start = partial(
            EngineClient.start, model, engine_options, engine_command, options.log_format
        )
        engine = await _unless_stopped(
            stop, Supervisor.start(start, kill_stalled_after_s=options.kill_stalled_after_s)
        )
        if engine is None:
            return
        async with engine, AsyncExitStack() as stack:
            shortening = None
            if options.compress_keep is not None:
                small = Shortening.start(model, engine_options, options, tokenizer)
                shortening = await _unless_stopped(stop, small)
                if shortening is None:
                    return
                stack.push_async_callback(shortening.engine.close)
            service = Service(engine, tokenizer, engine_options, options, shortening)
            server = _Server(service, options)
            with stop.calling(server.stop):
                await server.serve([listener])


class _Server(uvicorn.Server):
    """uvicorn, with our way to start and to stop."""

    def __init__(self, service: Service, options: ServeOptions) -> None:
        self._front = Front(create_app(service), service.metrics, options)
        super().__init__(
            uvicorn.Config(
                self._front,
                http=partial(  # type: ignore[arg-type]
                    Connection,
                    body_timeout_s=options.body_timeout_s,
                    write_timeout_s=options.write_timeout_s,
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=5,
            )
        )
        self._service = service
        self._drain_s = options.drain_s
        self._drain_until = 0.0

    def stop(self) -> None:
        """Drain; when told again, stop."""
        if self._service.draining:
            self.should_exit = True
        else:
            log.info("Draining: %d requests in flight.", self._service.engine.open)
            self._service.draining = True
            self._drain_until = time.monotonic() + self._drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        line = {"url": _url(sockets[0]), "model": self._service.engine.facts.name}
        print(msgspec.json.encode(line).decode(), flush=True)

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining:
            in_flight = self._service.engine.open or self._front.answering
            if not in_flight or time.monotonic() > self._drain_until:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.engine.fail_open("The server is stopping.")
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are ours


async def _unless_stopped(stop: Stop, start: Coroutine[Any, Any, T]) -> T | None:
    """Await `start`; None if a signal came first."""
    starting = asyncio.ensure_future(start)
    with stop.calling(starting.cancel):
        await asyncio.wait({starting})
    return None if starting.cancelled() else starting.result()


def _warn_if_open_to_all(listener: socket.socket, options: ServeOptions) -> None:
    host = listener.getsockname()[0]
    if not options.api_keys and not ip_address(host).is_loopback:
        log.warning(
            "Listening on %s without an API key: whoever reaches this machine may use the "
            "model. Set %s, or bind to 127.0.0.1.",
            host,
            KEYS_VARIABLE,
        )


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address but not listening: until we serve, nobody connects."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        message = f"{host}:{port}: {error.strerror}. Choose another --port; 0 takes a free one."
        raise OSError(error.errno, message) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
