"""The engine in a process of its own: drain messages, step, report, again.

Started by `EngineClient` as `python -m penstock.serve.engine_process ADDRESS
MODEL OPTIONS LOG_FORMAT`. Only this process imports PyTorch, and only this process
touches the engine, so a slow client or a long prompt to tokenize never
delays a step.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import zmq

from penstock.engine.options import EngineOptions
from penstock.engine.request import Delta, EngineStats, GenerateRequest, ModelFacts
from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve import logs, messages
from penstock.serve.messages import Abort, Fatal, Ready, Refusal, Report, Stop, Submit
from penstock.serve.options import LogFormat

log = logging.getLogger(__name__)


class SteppedEngine(Protocol):
    """What the loop needs of an engine. `penstock.engine.engine.Engine` is one."""

    @property
    def facts(self) -> ModelFacts: ...  # noqa: D102
    @property
    def has_work(self) -> bool: ...  # noqa: D102
    @property
    def wake_at(self) -> float | None: ...  # noqa: D102
    def submit(self, request: GenerateRequest) -> None: ...  # noqa: D102
    def abort(self, request_id: str, index: int | None = None) -> None: ...  # noqa: D102
    def step(self) -> list[Delta]: ...  # noqa: D102
    def stats(self) -> EngineStats: ...  # noqa: D102


Load = Callable[[str, EngineOptions], SteppedEngine]


def main(load: Load) -> None:
    """Run an engine process: load, say `Ready`, loop until `Stop`.

    Whatever goes wrong beyond one request is sent as `Fatal`, and the exit
    status is then 1.
    """
    # A service manager may send these to every process of ours. When to stop is for
    # the server to say, or what runs would not be drained.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    address, model, options, log_format = sys.argv[1:]
    # It knows prompts only as numbers, so an exception has no text to quote.
    logs.set_up(msgspec.convert(log_format, LogFormat), "engine", quote_exceptions=True)
    _exit_with_parent()
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    # Only open requests put messages here, and they are bounded by the queue.
    socket.set_hwm(0)
    socket.connect(address)
    try:
        # A checkpoint or an option at fault says how in its message.
        with _fatal(socket, plain=(ValueError, OSError)):
            engine = load(model, msgspec.json.decode(options, type=EngineOptions))
        with _fatal(socket, plain=()):
            socket.send(messages.encode(Ready(engine.facts, engine.stats())))
            _loop(engine, socket)
    finally:
        context.destroy(linger=2000)


@contextlib.contextmanager
def _fatal(socket: zmq.Socket[bytes], plain: tuple[type[Exception], ...]) -> Iterator[None]:
    """Tell the server of an exception, log it unless it is a `plain` one, and exit."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, plain) else f"{type(error).__name__}: {error}"
        if not isinstance(error, plain):
            log.exception("The engine stopped")
        socket.send(messages.encode(Fatal(reason)))
        sys.exit(1)


def _loop(engine: SteppedEngine, socket: zmq.Socket[bytes]) -> None:
    steps = engine.stats().steps
    while True:
        accepted: list[str] = []
        refused: list[Refusal] = []
        while socket.poll(0):
            match messages.decode_to_engine(socket.recv()):
                case Submit(request):
                    refusal = _submit(engine, request)
                    if refusal is None:
                        accepted.append(request.id)
                    else:
                        refused.append(refusal)
                case Abort(request_id, index):
                    engine.abort(request_id, index)
                case Stop():
                    return
        deltas = engine.step() if engine.has_work else []
        stats = engine.stats()
        socket.send(messages.encode(Report(accepted, refused, deltas, stats)))
        if not engine.has_work:
            socket.poll()
        elif stats.steps == steps and not deltas:
            socket.poll(_until(engine.wake_at))
        steps = stats.steps


def _until(wake_at: float | None) -> int:
    """Milliseconds to wait for a message when there is work and no step was possible.

    A static batch that fills knows its time. Else nothing but a message could
    help; looking again once a second costs little if that is wrong.
    """
    if wake_at is None:
        return 1000
    return max(1, math.ceil((wake_at - time.monotonic()) * 1000))


def _submit(engine: SteppedEngine, request: GenerateRequest) -> Refusal | None:
    try:
        engine.submit(request)
    except RequestRefused as error:
        return Refusal(request.id, str(error), field=error.field)
    except QueueFull as error:
        return Refusal(request.id, str(error), retry_after_s=error.retry_after_s)
    except Exception as error:
        # One request's bad luck at the door must not end the others.
        log.exception("Submitting %s failed", request.id)
        return Refusal(request.id, f"{type(error).__name__}: {error}")
    return None


def _exit_with_parent() -> None:
    """End this process when the server's end of our stdin closes, however it died."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    from penstock.engine.engine import Engine

    main(Engine.load)
