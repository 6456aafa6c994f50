"""The engine as a library: `LLM` for a batch of prompts, `AsyncLLM` for streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
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
    Timing,
    TokenLogprob,
)

Prompt = str | list[int]


@dataclass(slots=True)
class Choice:
    """One continuation of a prompt. Special tokens are in `token_ids`, not in `text`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob]
    score: float | None  # of a beam
    error: str | None
    timing: Timing


@dataclass(slots=True)
class Completion:
    """One finished request: its choices, beams best first."""

    choices: list[Choice]
    prompt_tokens: int
    cached_tokens: int
    prompt_logprobs: list[TokenLogprob | None] | None

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Token ids of the first choice."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finish_reason

    @property
    def error(self) -> str | None:
        """What the first choice failed of, if it did."""
        return self.choices[0].error


@dataclass(slots=True)
class TextDelta:
    """What one step added to a stream. Text lags tokens while a character is incomplete."""

    index: int  # of the choice
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
        said: dict[str, list[Delta]] = {request.id: [] for request in requests}
        missing = {request.id: request.params.n for request in requests}
        try:
            for request in requests:
                self.engine.submit(request)
            while self.engine.has_work:
                before = len(missing)
                deltas = self.engine.step()
                for delta in deltas:
                    said[delta.request_id].append(delta)
                    if delta.finish_reason is not None:
                        missing[delta.request_id] -= 1
                        if not missing[delta.request_id]:
                            del missing[delta.request_id]
                if progress and len(missing) < before:
                    progress(len(requests) - len(missing))
                if not deltas and self.engine.wake_at is not None:
                    time.sleep(max(0.0, self.engine.wake_at - time.monotonic()))
        finally:
            for request_id in missing:
                self.engine.abort(request_id)
            while self.engine.has_work:
                self.engine.step()
        return [self._completion(said[request.id]) for request in requests]

    def drop_cache(self) -> None:
        """Forget every prefix kept so far: the next prompts are computed whole.

        Raises `RuntimeError` while requests run.
        """
        if self.engine.has_work:
            raise RuntimeError(
                "drop_cache() while requests run; call it before or after generate(), not within."
            )
        self.engine.scheduler.pool.drop_cache()

    def _completion(self, deltas: list[Delta]) -> Completion:
        by_choice: dict[int, list[Delta]] = {}
        for delta in deltas:
            by_choice.setdefault(delta.index, []).append(delta)
        last = by_choice[0][-1]
        return Completion(
            choices=[self._choice(by_choice[index]) for index in sorted(by_choice)],
            prompt_tokens=last.prompt_tokens,
            cached_tokens=last.cached_tokens,
            prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs), None),
        )

    def _choice(self, deltas: list[Delta]) -> Choice:
        token_ids = [token for delta in deltas for token in delta.token_ids]
        text, last = self.tokenizer.stream(continues=True), deltas[-1]
        assert last.finish_reason is not None
        assert last.timing is not None
        return Choice(
            text=text.push(token_ids) + text.flush(),
            token_ids=token_ids,
            finish_reason=last.finish_reason,
            logprobs=[view for delta in deltas for view in delta.logprobs],
            score=last.score,
            error=last.error,
            timing=last.timing,
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
        # By request: where its deltas go, and the choices whose end is yet to come.
        self._queues: dict[
            str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Delta], set[int]]
        ] = {}
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
    ) -> AsyncGenerator[TextDelta, None]:
        """Yield what each step adds; the last delta of each choice has a `finish_reason`.

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
                self._queues[request.id] = (loop, queue, set(range(request.params.n)))
                loop.call_soon_threadsafe(_settle, accepted, None)

        self._do(submit)
        texts = [self.tokenizer.stream(continues=True) for _ in range(request.params.n)]
        unfinished = request.params.n
        try:
            await accepted
            while unfinished:
                delta = await queue.get()
                text, ended = texts[delta.index], delta.finish_reason is not None
                unfinished -= ended
                piece = text.push(delta.token_ids) + (text.flush() if ended else "")
                yield TextDelta(
                    index=delta.index,
                    token_ids=delta.token_ids,
                    text=piece,
                    finish_reason=delta.finish_reason,
                    prompt_tokens=delta.prompt_tokens,
                    cached_tokens=delta.cached_tokens,
                    error=delta.error,
                )
        finally:
            if unfinished and not (accepted.done() and accepted.exception()):
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
            loop, queue, coming = self._queues[delta.request_id]
            if delta.finish_reason is not None:
                coming.discard(delta.index)
                if not coming:
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
