"""The server's side of the engine process: start it, ask it, notice its death.

One reader task takes each report apart and puts every delta into the mailbox
of its request. A mailbox holds at most one delta of each choice: while its
reader is busy, later deltas are merged into it, so a slow client costs one
request's token ids and never delays the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
import zmq
import zmq.asyncio

from penstock.engine.options import EngineOptions
from penstock.engine.request import Delta, EngineStats, GenerateRequest, ModelFacts
from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve import messages
from penstock.serve.messages import Abort, Fatal, Ready, Refusal, Report, Stop, Submit
from penstock.serve.options import KEYS_VARIABLE, LogFormat

log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "penstock.serve.engine_process")
STOP_GRACE_S = 1.0


class EngineError(Exception):
    """The engine failed at this request and lives on (HTTP 500)."""


class EngineDied(EngineError):
    """The engine process is gone, and this request with it (HTTP 503)."""


class Generation:
    """The deltas of one accepted request, those of each choice in order, as an async iterator.

    The last delta of each choice has `finish_reason` set. Leaving its `async
    with` early, by cancellation too, aborts the request in the engine. Raises
    `EngineDied` from the iterator if the engine process ends.
    """

    def __init__(self, client: EngineClient, request: GenerateRequest) -> None:
        self._client = client
        self.request_id = request.id
        self._coming = self._unread = request.params.n  # choices whose end is yet to come, or read
        self._admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending: dict[int, Delta] = {}
        self._failure: Exception | None = None
        self._wake = asyncio.Event()

    async def admitted(self) -> None:
        """Wait until the engine has accepted the request; raise why it has not."""
        await self._admitted

    def admit(self) -> None:
        """The engine has accepted it. Called by the client's reader only."""
        if not self._admitted.done():  # its waiter may be cancelled and not yet know
            self._admitted.set_result(None)

    def put(self, delta: Delta) -> None:
        """Deliver what one step added. Called by the client's reader only."""
        if (earlier := self._pending.get(delta.index)) is not None:
            delta.token_ids = earlier.token_ids + delta.token_ids
            delta.logprobs = earlier.logprobs + delta.logprobs
            delta.prompt_logprobs = delta.prompt_logprobs or earlier.prompt_logprobs
        self._pending[delta.index] = delta
        self._coming -= delta.finish_reason is not None
        self._wake.set()

    @property
    def complete(self) -> bool:
        """Whether the last delta of every choice has come."""
        return self._coming == 0

    def fail(self, error: Exception) -> None:
        """End the iteration with `error`. Called by the client only."""
        if not self._admitted.done():
            self._admitted.set_exception(error)
        self._failure = error
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if not self._unread:
            raise StopAsyncIteration
        await self._wake.wait()
        if not self._pending:
            assert self._failure is not None
            self._unread = 0
            raise self._failure
        delta = self._pending.pop(next(iter(self._pending)))
        if not (self._pending or self._failure):
            self._wake.clear()
        self._unread -= delta.finish_reason is not None
        return delta

    def abort(self, index: int) -> None:
        """End one choice in the engine; its last delta comes with finish_reason "abort"."""
        self._client.abort(self.request_id, index)

    def close(self) -> None:
        """Abort the request in the engine unless it has ended."""
        self._client.forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class EngineClient:
    """One engine process and everything that is open on it.

    Use as `async with await EngineClient.start(model, options) as engine`.
    `facts` and `stats` are the engine's own, the latter as of its last
    report; between reports nothing in the engine changes. `dead` says why
    the process is gone, or is None while it lives.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        socket: zmq.asyncio.Socket,
        ready: Ready,
        cleanup: contextlib.AsyncExitStack,
    ) -> None:
        self.facts: ModelFacts = ready.facts
        self.stats: EngineStats = ready.stats
        self.dead: str | None = None
        self.ended = asyncio.Event()  # set with `dead`
        self._process = process
        self._socket = socket
        self._cleanup = cleanup
        self._open: dict[str, Generation] = {}
        self._unanswered = False
        self._progress_at = time.monotonic()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    @classmethod
    async def start(
        cls,
        model: str,
        options: EngineOptions,
        command: Sequence[str] = ENGINE_COMMAND,
        log_format: LogFormat = "text",
    ) -> Self:
        """Start `command` as the engine process and wait until the model is loaded.

        Raises `EngineDied` with the process's own words if it cannot.
        """
        # The folder is 0700 and goes once the two are connected, so nobody else
        # can connect, and nothing is left however this process ends.
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
            arguments = [model, msgspec.json.encode(options).decode(), log_format]
            return await cls._start(command, arguments, folder)

    @classmethod
    async def _start(cls, command: Sequence[str], arguments: Sequence[str], folder: str) -> Self:
        async with contextlib.AsyncExitStack() as cleanup:
            context = zmq.asyncio.Context()
            cleanup.callback(context.destroy, linger=0)
            socket: zmq.asyncio.Socket = context.socket(zmq.PAIR)
            socket.set_hwm(0)
            address = f"ipc://{folder}/engine"
            socket.bind(address)
            process = await asyncio.create_subprocess_exec(
                *command,
                address,
                *arguments,
                # It reads nothing: the pipe's end tells it that we are gone.
                stdin=asyncio.subprocess.PIPE,
                # Standard output is ours, for the line that says we are ready.
                stdout=sys.stderr,
                # Ctrl-C in a terminal is for the server, which then stops the engine.
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != KEYS_VARIABLE},
            )
            cleanup.push_async_callback(_kill, process)
            ready = await _first_message(socket, process)
            return cls(process, socket, ready, cleanup.pop_all())
        raise AssertionError("unreachable: no callback above swallows exceptions")

    async def generate(self, request: GenerateRequest) -> Generation:
        """Hand `request` to the engine and wait until it is accepted.

        Use the result in `async with`, or call its `close`. Raises
        `RequestRefused`, `QueueFull`, or `EngineDied`; being cancelled while
        waiting aborts the request.
        """
        if self.dead is not None:
            raise EngineDied(self.dead)
        generation = Generation(self, request)
        self._send(Submit(request))
        self._open[request.id] = generation
        try:
            await generation.admitted()
        except BaseException:
            generation.close()
            raise
        return generation

    @property
    def open(self) -> int:
        """How many requests are between submission and their last delta."""
        return len(self._open)

    def stalled_s(self) -> float:
        """Seconds without a completed step while there is work; 0.0 when there is none."""
        return time.monotonic() - self._progress_at if self._busy() else 0.0

    def _busy(self) -> bool:
        # An engine that hangs never answers the abort of the request that hung
        # it, so it stays busy when the last client has left.
        return bool(self._open or self._unanswered or self.stats.running or self.stats.waiting)

    def abort(self, request_id: str, index: int) -> None:
        """End one choice of an open request."""
        if request_id in self._open and self.dead is None:
            self._send(Abort(request_id, index))

    def forget(self, generation: Generation) -> None:
        """Abort `generation` unless it has ended. Idempotent."""
        if self._open.pop(generation.request_id, None) is not None and self.dead is None:
            self._send(Abort(generation.request_id))

    def fail_open(self, reason: str) -> None:
        """Abort every open request; its reader gets `EngineDied(reason)`."""
        for generation in list(self._open.values()):
            self.forget(generation)
            generation.fail(EngineDied(reason))

    def give_up(self, reason: str) -> None:
        """Take the engine for dead, of `reason`. `close` ends the process."""
        if self.dead is None:
            log.error("%s", reason)
            self.dead = reason
            self.ended.set()
            self.fail_open(reason)

    async def close(self) -> None:
        """Stop the engine process; kill it if it does not stop within a few seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.dead is None:
            self.dead = "The server is stopping."
            self.fail_open(self.dead)
            self._send(Stop())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
        await self._cleanup.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _send(self, message: messages.ToEngine) -> None:
        if not self._busy():
            self._progress_at = time.monotonic()
        self._unanswered = True
        # With no high-water mark this queues at once; there is nothing to await.
        self._socket.send(messages.encode(message))

    async def _read(self) -> None:
        try:
            while True:
                self._handle(messages.decode_from_engine(await self._socket.recv()))
        except Exception as error:
            # Without its reader every open request would wait for ever.
            log.exception("Reading from the engine process failed")
            self.give_up(f"Reading from the engine process failed: {error}")

    def _handle(self, message: messages.FromEngine) -> None:
        match message:
            case Report(accepted, refused, deltas, stats):
                # A report without a step is not progress, or an engine that
                # can schedule nothing would look healthy for ever.
                if stats.steps > self.stats.steps or not (stats.running or stats.waiting):
                    self._progress_at = time.monotonic()
                self.stats = stats
                self._unanswered = False
                for request_id in accepted:
                    if (generation := self._open.get(request_id)) is not None:
                        generation.admit()
                for refusal in refused:
                    if (generation := self._open.pop(refusal.request_id, None)) is not None:
                        generation.fail(_error_of(refusal))
                for delta in deltas:
                    if (generation := self._open.get(delta.request_id)) is not None:
                        generation.put(delta)
                        if generation.complete:
                            del self._open[delta.request_id]
            case Fatal(reason):
                self.give_up(f"The engine failed: {reason}")
            case Ready():
                raise AssertionError("Ready comes once, and start() took it.")

    async def _watch(self) -> None:
        status = await self._process.wait()
        # What it managed to say before it went is still to be heard.
        await asyncio.sleep(0.1)
        self.give_up(f"The engine process ended with status {status}.")


def _error_of(refusal: Refusal) -> Exception:
    if refusal.field is not None:
        return RequestRefused(refusal.message, field=refusal.field)
    if refusal.retry_after_s is not None:
        return QueueFull(refusal.message, retry_after_s=refusal.retry_after_s)
    return EngineError(refusal.message)


async def _first_message(socket: zmq.asyncio.Socket, process: asyncio.subprocess.Process) -> Ready:
    answer = asyncio.ensure_future(socket.recv())
    exit_ = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({answer, exit_}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            # It may have spoken just before it went.
            await asyncio.wait({answer}, timeout=0.1)
        if not answer.done():
            raise EngineDied(
                f"The engine process ended with status {process.returncode} before it was ready."
            )
        message = messages.decode_from_engine(answer.result())
    finally:
        answer.cancel()
        exit_.cancel()
    if isinstance(message, Ready):
        return message
    raise EngineDied(message.message if isinstance(message, Fatal) else repr(message))


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # It may end between the question and the signal.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
