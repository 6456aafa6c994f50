"""An engine process without a model, which fails when it is told to.

The next token of choice k is the prompt's next one, from its token k on, over
and over: an answer that a test can write down. A prompt that contains one of
the ids below does what the id says; one that contains `SHOW` is answered with
the request as it reached the engine, in JSON. Run as a script it takes the
place of `penstock.serve.engine_process`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import msgspec

from penstock.engine.options import EngineOptions
from penstock.engine.request import (
    Delta,
    EngineStats,
    FinishReason,
    GenerateRequest,
    ModelFacts,
    Timing,
    TokenLogprob,
)
from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.serve.engine_process import main

EOS = 256
HANG = 257  # the step that meets it never returns
DIE = 258  # the process exits at once, without a word
RAISE = 259  # step() raises
FAIL = 260  # this request ends in an error, the engine goes on
STARVE = 261  # from now on no step completes, though step() returns
VOCAB = 262

SHOW = "<show>"
MAX_MODEL_LEN = 2048
OBEYS = "FAKE_DEAF" not in os.environ  # whether ids do what they say
STEP_S = float(os.environ.get("FAKE_STEP_S", "0.001"))


@dataclass(slots=True)
class Running:
    request: GenerateRequest
    limit: int
    pages: int
    answer: list[int]
    made: dict[int, int] = field(default_factory=dict)  # tokens of each choice that runs


class FakeEngine:
    def __init__(self, model: str, options: EngineOptions) -> None:
        if "broken" in model:
            raise ValueError(f"{model} holds no weights.")
        time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
        self._options = options
        self._pages = (options.kv_tokens or 64 * 1024) // options.page_size
        self._waiting: list[GenerateRequest] = []
        self._running: dict[str, Running] = {}
        self._aborted: set[tuple[str, int | None]] = set()
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
            precision="none",
            compute="none",
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
        self._waiting.sort(key=lambda waiting: waiting.priority)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self._aborted.add((request_id, index))

    wake_at = None

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> list[Delta]:
        deltas = [end for id_, index in self._aborted for end in self._end(id_, index, "abort")]
        self._aborted.clear()
        self._admit()
        prompts = [set(running.request.prompt) for running in self._running.values()]
        asked = set().union(*prompts) if OBEYS else set()
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
            # The choice that brings the prompt's log probabilities may come last.
            scores = running.request.params.prompt_logprobs is not None
            for index in sorted(running.made, reverse=scores):
                deltas += self._advance(running, index)
        return deltas

    def stats(self) -> EngineStats:
        held = sum(running.pages for running in self._running.values())
        return EngineStats(
            running=sum(len(running.made) for running in self._running.values()),
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

    def _advance(self, running: Running, index: int) -> list[Delta]:
        request = running.request
        params = request.params
        if FAIL in request.prompt and OBEYS:
            return self._end(request.id, index, "error")
        token = running.answer[(running.made[index] + index) % len(running.answer)]
        running.made[index] += 1
        self._counts["output"] += 1
        stops = {EOS} - ({EOS} if params.ignore_eos else set()) | {*params.stop_token_ids}
        finish: FinishReason | None = None
        if token in stops and running.made[index] > params.min_tokens:
            finish = "stop"
        elif running.made[index] == running.limit:
            finish = "length"
        first = running.made[index] == 1
        delta = Delta(request_id=request.id, index=index, token_ids=[token])
        if finish:
            (delta,) = self._end(request.id, index, finish)
            delta.token_ids = [token]
        delta.prompt_tokens = len(request.prompt)
        if params.logprobs is not None:
            delta.logprobs = [_logprob(token, index, params.logprobs)]
        if params.prompt_logprobs is not None and first and index == 0:
            later = request.prompt[1:]
            count = params.prompt_logprobs
            delta.prompt_logprobs = [None, *(_logprob(token, 0, count) for token in later)]
        return [delta]

    def _end(self, request_id: str, index: int | None, reason: FinishReason) -> list[Delta]:
        """End one choice, or with `index=None` all that still run or wait."""
        waiting = [request for request in self._waiting if request.id == request_id]
        self._waiting = [request for request in self._waiting if request.id != request_id]
        running = self._running.get(request_id)
        open_ = range(waiting[0].params.n) if waiting else running.made if running else ()
        ended = [choice for choice in open_ if index in (None, choice)]
        if running:
            for choice in ended:
                del running.made[choice]
            if not running.made:
                del self._running[request_id]
        self._counts[{"abort": "gone", "error": "failed"}.get(reason, "done")] += len(ended)
        return [
            Delta(
                request_id=request_id,
                index=choice,
                finish_reason=reason,
                error="told to fail" if reason == "error" else None,
                timing=Timing(0.25, 0.5, 0.125, 3),
            )
            for choice in ended
        ]

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._options.max_running:
            request = self._waiting[0]
            pages = self._need(request)
            if sum(running.pages for running in self._running.values()) + pages > self._pages:
                return
            del self._waiting[0]
            running = Running(request, self._limit(request), pages, _answer(request))
            running.made = dict.fromkeys(range(request.params.n), 0)
            self._running[request.id] = running
            self._counts["prompt"] += len(request.prompt)

    def _limit(self, request: GenerateRequest) -> int:
        room = self.facts.max_model_len - len(request.prompt)
        return min(request.params.max_tokens or room, room)

    def _need(self, request: GenerateRequest) -> int:
        return -(-(len(request.prompt) + self._limit(request)) // self._options.page_size)


def _answer(request: GenerateRequest) -> list[int]:
    if SHOW.encode() not in bytes(token for token in request.prompt if token < 256):
        return request.prompt
    shown = {"params": request.params, "priority": request.priority}
    return [*msgspec.json.encode(shown), EOS]


def _logprob(token: int, index: int, top: int) -> TokenLogprob:
    """Later choices are likelier, and the token itself is always the likeliest."""
    logprob = -1.0 / (1 + index)
    likeliest = [((token + place) % VOCAB, logprob - place) for place in range(top)]
    return TokenLogprob(logprob, 1, likeliest)


if __name__ == "__main__":
    main(FakeEngine)
