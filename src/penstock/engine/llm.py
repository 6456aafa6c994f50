"""The engine as a library: `LLM` for a batch of prompts, `AsyncLLM` for streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import msgspec

from penstock import models
from penstock.engine.engine import Engine
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.engine.request import (
    Delta,
    FinishReason,
    GenerateRequest,
    ModelFacts,
    SamplingParams,
)

Prompt = str | list[int]


@dataclass(slots=True)
class Completion:
    """One finished request. Special tokens are in `token_ids`, not in `text`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    error: str | None = None


@dataclass(slots=True)
class TextDelta:
    """What one step added to a stream. Text lags tokens while a character is incomplete."""

    token_ids: list[int]
    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    cached_tokens: int
    error: str | None = None


class LLM:
    """An engine that runs batches of prompts to their end, offline."""

    def __init__(self, model: str = "embedded", options: EngineOptions | None = None) -> None:
        # Offline there is nobody to ask to come back later.
        options = msgspec.structs.replace(
            options or EngineOptions(), max_waiting=1 << 40, max_waiting_tokens=1 << 60
        )
        self.engine = Engine.load(model, options)
        self.tokenizer = Tokenizer.load(models.path(model))
        self._ids = count()

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Complete every prompt; results are in the order of the prompts.

        `params` is one for all (greedy if None) or one each. `progress` is called
        with the number of prompts that have ended, after each step in which it grew.
        Raises `RequestRefused` before anything runs if a prompt can never fit;
        Ctrl-C abandons the whole batch.
        """
        if params is None:
            params = SamplingParams(temperature=0.0)
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"{len(each)} params for {len(prompts)} prompts; give one or as many.")
        requests = [
            GenerateRequest(
                id=f"offline-{next(self._ids)}",
                prompt=self.tokenizer.encode(p) if isinstance(p, str) else p,
                params=chosen,
            )
            for p, chosen in zip(prompts, each, strict=True)
        ]
        done: dict[str, Completion] = {}
        tokens: dict[str, list[int]] = {request.id: [] for request in requests}
        try:
            for request in requests:
                self.engine.submit(request)
            while self.engine.has_work:
                before = len(done)
                deltas = self.engine.step()
                for delta in deltas:
                    tokens[delta.request_id] += delta.token_ids
                    if delta.finish_reason is not None:
                        done[delta.request_id] = self._completion(tokens[delta.request_id], delta)
                if progress and len(done) > before:
                    progress(len(done))
                if not deltas and self.engine.wake_at is not None:
                    time.sleep(max(0.0, self.engine.wake_at - time.monotonic()))
        finally:
            for request in requests:
                if request.id not in done:
                    self.engine.abort(request.id)
            while self.engine.has_work:
                self.engine.step()
        return [done[request.id] for request in requests]

    def _completion(self, token_ids: list[int], last: Delta) -> Completion:
        assert last.finish_reason is not None
        text = self.tokenizer.stream(continues=True)
        return Completion(
            text=text.push(token_ids) + text.flush(),
            token_ids=token_ids,
            finish_reason=last.finish_reason,
            prompt_tokens=last.prompt_tokens,
            cached_tokens=last.cached_tokens,
            error=last.error,
        )


class AsyncLLM:
    """An engine on a thread of its own, streaming to any number of asyncio tasks.

    The thread owns the engine: tasks hand it commands and it hands back each
    step's deltas with one call into the event loop.
    """

    def __init__(self, model: str = "embedded", options: EngineOptions | None = None) -> None:
        self._engine = Engine.load(model, options)
        self.tokenizer = Tokenizer.load(models.path(model))
        self._commands: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._queues: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Delta]]] = {}
        self._ids = count()
        self._thread = threading.Thread(target=self._run, name="penstock-engine", daemon=True)
        self._thread.start()

    @property
    def facts(self) -> ModelFacts:
        """The model and how it is served."""
        return self._engine.facts

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator[TextDelta]:
        """Yield what each step adds; the last delta has a `finish_reason`.

        Leaving the iterator early aborts the request. Raises as `Engine.submit`.
        """
        request = GenerateRequest(
            id=request_id or f"stream-{next(self._ids)}",
            prompt=self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt,
            params=params or SamplingParams(temperature=0.0),
        )
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[None] = loop.create_future()
        queue: asyncio.Queue[Delta] = asyncio.Queue()

        def submit() -> None:
            try:
                self._engine.submit(request)
            except Exception as refused:
                loop.call_soon_threadsafe(_settle, accepted, refused)
            else:
                self._queues[request.id] = (loop, queue)
                loop.call_soon_threadsafe(_settle, accepted, None)

        self._do(submit)
        text = self.tokenizer.stream(continues=True)
        finished = False
        try:
            await accepted
            while not finished:
                delta = await queue.get()
                finished = delta.finish_reason is not None
                piece = text.push(delta.token_ids) + (text.flush() if finished else "")
                yield TextDelta(
                    token_ids=delta.token_ids,
                    text=piece,
                    finish_reason=delta.finish_reason,
                    prompt_tokens=delta.prompt_tokens,
                    cached_tokens=delta.cached_tokens,
                    error=delta.error,
                )
        finally:
            if not finished and not (accepted.done() and accepted.exception()):
                self._do(lambda: self._engine.abort(request.id))

    async def close(self) -> None:
        """Abort what runs, stop the thread and wait for it."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _do(self, command: Callable[[], None]) -> None:
        with self._wake:
            if self._closing:
                raise RuntimeError("this AsyncLLM is closed")
            self._commands.append(command)
            self._wake.notify()

    def _run(self) -> None:
        engine = self._engine
        while True:
            with self._wake:
                while not (self._commands or self._closing or self._due()):
                    wake = engine.wake_at
                    self._wake.wait(None if wake is None else max(0.0, wake - time.monotonic()))
                commands, self._commands = self._commands, []
                closing = self._closing
            for command in commands:
                command()
            if closing:
                for request_id in list(self._queues):
                    engine.abort(request_id)
            self._deliver(engine.step())
            if closing and not engine.has_work:
                return

    def _due(self) -> bool:
        wake = self._engine.wake_at
        return self._engine.has_work and (wake is None or time.monotonic() >= wake)

    def _deliver(self, deltas: list[Delta]) -> None:
        """Hand a step's deltas over, with one call for each event loop that waits."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Delta], Delta]]] = {}
        for delta in deltas:
            loop, queue = self._queues[delta.request_id]
            if delta.finish_reason is not None:
                del self._queues[delta.request_id]
            batches.setdefault(loop, []).append((queue, delta))
        for loop, batch in batches.items():
            with suppress(RuntimeError):  # that loop is closed: nobody listens any more
                loop.call_soon_threadsafe(_put_all, batch)


def _put_all(batch: list[tuple[asyncio.Queue[Delta], Delta]]) -> None:
    for queue, delta in batch:
        queue.put_nowait(delta)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
