"""The step loop: requests in, tokens out, one model step at a time."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

import torch

from penstock import models
from penstock.engine import facts
from penstock.engine.kv import KVStore
from penstock.engine.model import loader
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder
from penstock.engine.options import EngineOptions
from penstock.engine.request import (
    Delta,
    EngineStats,
    GenerateRequest,
    ModelFacts,
)
from penstock.engine.runner import Generation, Runner, Spent
from penstock.schedule import Policy, QueueFull, RequestRefused, Scheduler, Sequence
from penstock.schedule.keys import PageKeys

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """Totals since the engine started."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Engine:
    """Serves requests on one decoder.

    The caller owns the loop: `submit` and `abort` at any time between steps,
    `step` while `has_work`. Every accepted request ends with exactly one
    `Delta` that has a `finish_reason`. Not thread-safe: one thread calls.
    """

    def __init__(self, decoder: Decoder, about: ModelFacts, options: EngineOptions) -> None:
        config = decoder.config
        policy = Policy(
            max_running=options.max_running,
            max_step_tokens=options.max_step_tokens,
            max_waiting=options.max_waiting,
            max_waiting_tokens=options.max_waiting_tokens,
            chunked_prefill=options.chunked_prefill,
            prefix_sharing=options.prefix_sharing,
            kv_cache=options.kv_cache,
            batching=options.batching,
            fill_wait_s=options.fill_wait_s,
        )
        self.facts = about
        self.scheduler = Scheduler(policy, about.pages, options.page_size)
        kv = KVStore(
            decoder.kv_layers(),
            about.pages + 1,  # the runner's scratch page
            options.page_size,
            decoder.embedding.dtype,
            decoder.embedding.device,
        )
        longest = -(-min(about.max_model_len, self.scheduler.capacity()) // options.page_size)
        self._runner = Runner(decoder, kv, rows=options.max_running, longest=longest)
        self._generations: dict[Sequence, Generation] = {}
        self._eos = frozenset(config.eos_token_ids)
        self._counters = Counters()
        self._scheduling = 0.0  # seconds

    @classmethod
    def load(cls, model: str, options: EngineOptions | None = None) -> Engine:
        """Load a checkpoint: "embedded", "embedded-draft", or a directory in HF layout.

        Raises `ValueError` or `FileNotFoundError` saying what is wrong with the
        checkpoint or which option cannot be met.
        """
        options = options or EngineOptions()
        directory = models.path(model)
        config = ModelConfig.load(directory)
        dtype = facts.choose_dtype(options, config)
        decoder = loader.load_weights(config, directory, dtype, options.device)
        torch.set_num_threads(facts.choose_threads(options, decoder))
        return cls(decoder, facts.gather(model, decoder, options), options)

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return self.scheduler.has_work

    @property
    def wake_at(self) -> float | None:
        """Monotonic time at which `step` has something to do though nothing arrives, if any."""
        return self.scheduler.wake_at

    @property
    def spent(self) -> Spent:
        """Where the time of all steps so far went."""
        spent = self._runner.spent
        spent.schedule = self._scheduling
        return spent

    def submit(self, request: GenerateRequest) -> None:
        """Accept a request, or raise.

        Raises `RequestRefused` for what can never be served, `QueueFull` when
        the queue has no room, `ValueError` for an id that is in use.
        """
        about, prompt, params = self.facts, request.prompt, request.params
        bad = next((t for t in prompt if not 0 <= t < about.vocab_size), None)
        if bad is not None:
            raise RequestRefused(
                f"prompt holds token id {bad}; this model's ids are 0 to {about.vocab_size - 1}.",
                field="prompt",
            )
        longest = min(about.max_model_len, self.scheduler.capacity())
        limit = longest if params.max_tokens is None else len(prompt) + params.max_tokens
        if limit > about.max_model_len or len(prompt) >= longest:
            raise _too_long(len(prompt), params.max_tokens, longest)
        generation = Generation(
            tokens=list(prompt),
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
        )
        sequence = Sequence(
            id=request.id,
            prompt=len(prompt),
            limit=limit,
            keys=PageKeys(generation.tokens, about.page_size),
            priority=request.priority,
        )
        try:
            self.scheduler.add(sequence, now=time.monotonic())
        except QueueFull as full:
            full.retry_after_s = self._retry_after()
            raise
        self._generations[sequence] = generation

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one choice of it, at the next step; unknown ids are ignored."""
        self.scheduler.abort(request_id)

    def step(self) -> list[Delta]:
        """Run one step of the model; return what it added, for each request that changed.

        An error in the model ends the requests that were running with
        finish_reason "error"; the engine goes on with the rest.
        """
        started = time.perf_counter()
        plan = self.scheduler.schedule(time.monotonic())
        planned = time.perf_counter()
        self._scheduling += planned - started
        deltas: dict[Sequence, Delta] = {}
        self._end(deltas)  # aborted since the last step; their rows are wanted now
        error = None
        if plan is not None:
            try:
                sampled = self._runner.run(plan, self._generations)
            except Exception as broken:  # the step's requests fail, the engine lives
                log.exception("a step of the model failed")
                error = f"{type(broken).__name__}: {broken}"
                self.scheduler.fail()
            else:
                computed = time.perf_counter()
                stopped = []
                for sequence, generation in sampled:
                    token = generation.tokens[-1]
                    deltas[sequence] = self._delta(sequence, [token])
                    if len(generation.tokens) == sequence.prompt + 1:
                        self._counters.prompt_tokens += sequence.prompt
                        self._counters.cached_tokens += sequence.cached
                    params = generation.params
                    if token in params.stop_token_ids or (
                        token in self._eos and not params.ignore_eos
                    ):
                        stopped.append(sequence)
                self.scheduler.apply(plan, stopped)
                self._counters.output_tokens += len(sampled)
                self._scheduling += time.perf_counter() - computed
            self._counters.steps += 1
        self._end(deltas, error)
        return list(deltas.values())

    def stats(self) -> EngineStats:
        """Return a snapshot of queue, pages and totals."""
        scheduler, counters = self.scheduler, self._counters
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting,
            pages_total=scheduler.pool.total,
            pages_free=scheduler.pool.free,
            pages_held=scheduler.pool.held,
            pages_cached=scheduler.pool.cached,
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            output_tokens=counters.output_tokens,
            preemptions=scheduler.preemptions,
            finished=counters.finished,
            cancelled=counters.cancelled,
            failed=counters.failed,
        )

    def _end(self, deltas: dict[Sequence, Delta], error: str | None = None) -> None:
        """Turn each end the scheduler reports into a finish reason and let go of its state."""
        for ended in self.scheduler.ended:
            sequence = ended.sequence
            delta = deltas.setdefault(sequence, self._delta(sequence, []))
            delta.finish_reason = ended.reason
            counters = self._counters
            if ended.reason == "abort":
                counters.cancelled += 1
            elif ended.reason == "error":
                counters.failed += 1
                delta.error = error
            else:
                counters.finished += 1
            self._runner.unseat(self._generations.pop(sequence))
        self.scheduler.ended.clear()

    def _delta(self, sequence: Sequence, tokens: list[int]) -> Delta:
        return Delta(
            request_id=str(sequence.id),
            token_ids=tokens,
            prompt_tokens=sequence.prompt,
            cached_tokens=sequence.cached,
        )

    def _retry_after(self) -> float:
        """Seconds until a place in the queue should be free, from the pace so far."""
        ended = self._counters.finished + self._counters.cancelled
        spent = self.spent
        busy = spent.schedule + spent.prepare + spent.model + spent.sample + spent.account
        return min(60.0, max(1.0, busy / ended if ended else 1.0))


def _too_long(prompt: int, max_tokens: int | None, longest: int) -> RequestRefused:
    room = longest - prompt
    if room < 1:
        return RequestRefused(
            f"prompt has {prompt:,} tokens; this model holds {longest:,}, output included. "
            f"Shorten the prompt to {longest - 1:,} or less.",
            field="prompt",
        )
    return RequestRefused(
        f"max_tokens={max_tokens:,} with a {prompt:,}-token prompt needs "
        f"{prompt + (max_tokens or 0):,} tokens; this model holds {longest:,}. "
        f"Lower max_tokens to {room:,} or shorten the prompt.",
        field="max_tokens",
    )
