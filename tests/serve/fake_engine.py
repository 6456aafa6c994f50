"""An engine process without a model, which fails when it is told to.

Its next token is the prompt's next one, over and over: an answer that a test
can write down. A prompt that contains one of the ids below does what the id
says. Run as a script it takes the place of `penstock.serve.engine_process`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass

from penstock.engine.options import EngineOptions
from penstock.engine.request import Delta, EngineStats, FinishReason, GenerateRequest, ModelFacts
from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve.engine_process import main

EOS = 256
HANG = 257  # the step that meets it never returns
DIE = 258  # the process exits at once, without a word
RAISE = 259  # step() raises
FAIL = 260  # this request ends in an error, the engine goes on
STARVE = 261  # from now on no step completes, though step() returns
VOCAB = 262

MAX_MODEL_LEN = 2048
STEP_S = float(os.environ.get("FAKE_STEP_S", "0.001"))


@dataclass(slots=True)
class Running:
    request: GenerateRequest
    limit: int
    pages: int
    made: int = 0


class FakeEngine:
    def __init__(self, model: str, options: EngineOptions) -> None:
        if "broken" in model:
            raise ValueError(f"{model} holds no weights.")
        time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
        self._options = options
        self._pages = (options.kv_tokens or 64 * 1024) // options.page_size
        self._waiting: deque[GenerateRequest] = deque()
        self._running: dict[str, Running] = {}
        self._aborted: set[str] = set()
        self._starved = False
        self._counts = dict.fromkeys(("steps", "prompt", "output", "done", "gone", "failed"), 0)
        self.facts = ModelFacts(
            name=os.path.basename(model),
            architecture="fake",
            max_model_len=options.max_model_len or MAX_MODEL_LEN,
            vocab_size=VOCAB,
            parameters=0,
            weight_bytes=0,
            flops_per_token=0,
            head_flops=0,
            attention_flops=0,
            kv_bytes_per_token=0,
            dtype="none",
            kv_dtype="none",
            device="cpu",
            threads=1,
            page_size=options.page_size,
            pages=self._pages,
            eos_token_ids=[EOS],
        )

    def submit(self, request: GenerateRequest) -> None:
        if self._need(request) > self._pages:
            raise RequestRefused(
                f"{len(request.prompt)} prompt tokens need {self._need(request)} pages; "
                f"the pool has {self._pages}.",
                field="prompt",
            )
        if len(request.prompt) >= self.facts.max_model_len:
            raise RequestRefused(
                f"The prompt has {len(request.prompt)} tokens; this model holds "
                f"{self.facts.max_model_len}.",
                field="prompt",
            )
        if len(self._waiting) >= self._options.max_waiting:
            raise QueueFull(f"{len(self._waiting)} requests wait already.", retry_after_s=2.5)
        self._waiting.append(request)

    def abort(self, request_id: str) -> None:
        self._aborted.add(request_id)

    wake_at = None

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> list[Delta]:
        deltas = [self._leave(id_, "abort") for id_ in self._aborted if self._has(id_)]
        self._aborted.clear()
        self._admit()
        prompts = [set(running.request.prompt) for running in self._running.values()]
        asked = set().union(*prompts)
        if HANG in asked:
            time.sleep(3600)
        if DIE in asked:
            os._exit(7)
        if RAISE in asked:
            raise RuntimeError("told to raise")
        if self._starved or STARVE in asked:
            self._starved = True
            return deltas
        time.sleep(STEP_S)
        self._counts["steps"] += 1
        for running in list(self._running.values()):
            deltas.append(self._advance(running))
        return deltas

    def stats(self) -> EngineStats:
        held = sum(running.pages for running in self._running.values())
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            pages_total=self._pages,
            pages_free=self._pages - held,
            pages_held=held,
            pages_cached=0,
            steps=self._counts["steps"],
            prompt_tokens=self._counts["prompt"],
            cached_tokens=0,
            output_tokens=self._counts["output"],
            preemptions=0,
            finished=self._counts["done"],
            cancelled=self._counts["gone"],
            failed=self._counts["failed"],
        )

    def _advance(self, running: Running) -> Delta:
        request = running.request
        if FAIL in request.prompt:
            return self._leave(request.id, "error")
        token = request.prompt[running.made % len(request.prompt)]
        running.made += 1
        self._counts["output"] += 1
        params = request.params
        finish: FinishReason | None = None
        if token in params.stop_token_ids or (token == EOS and not params.ignore_eos):
            finish = "stop"
        elif running.made == running.limit:
            finish = "length"
        delta = self._leave(request.id, finish) if finish else Delta(request_id=request.id)
        delta.token_ids = [token]
        delta.prompt_tokens = len(request.prompt)
        return delta

    def _leave(self, request_id: str, reason: FinishReason) -> Delta:
        count = {"abort": "gone", "error": "failed"}.get(reason, "done")
        self._counts[count] += 1
        if self._running.pop(request_id, None) is None:
            self._waiting = deque(r for r in self._waiting if r.id != request_id)
        error = "told to fail" if reason == "error" else None
        return Delta(request_id=request_id, finish_reason=reason, error=error)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._options.max_running:
            request = self._waiting[0]
            pages = self._need(request)
            if sum(running.pages for running in self._running.values()) + pages > self._pages:
                return
            self._waiting.popleft()
            self._running[request.id] = Running(request, self._limit(request), pages)
            self._counts["prompt"] += len(request.prompt)

    def _has(self, request_id: str) -> bool:
        return request_id in self._running or any(r.id == request_id for r in self._waiting)

    def _limit(self, request: GenerateRequest) -> int:
        room = self.facts.max_model_len - len(request.prompt)
        return min(request.params.max_tokens or room, room)

    def _need(self, request: GenerateRequest) -> int:
        return -(-(len(request.prompt) + self._limit(request)) // self._options.page_size)


if __name__ == "__main__":
    main(FakeEngine)
