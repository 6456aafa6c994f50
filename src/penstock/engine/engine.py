"""The step loop: requests in, tokens out, one model step at a time."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from penstock import models
from penstock.engine import facts
from penstock.engine.generation import Generation, generations
from penstock.engine.grammar import Grammars
from penstock.engine.kernels.choose import choose
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
    SamplingParams,
    Timing,
)
from penstock.engine.runner import Runner, Spent
from penstock.engine.speculate.choose import draft_config, speculator
from penstock.engine.speculate.speculator import Tally
from penstock.schedule import Policy, QueueFull, RequestRefused, Scheduler, Sequence, StepPlan
from penstock.schedule.keys import PageKeys
from penstock.schedule.sequence import Keys, no_keys

log = logging.getLogger(__name__)

COMPILING_POLL_S = 0.002  # how often to look, when there is nothing else to do


@dataclass(slots=True)
class Counters:
    """Totals since the engine started."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    sequence_steps: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Engine:
    """Serves requests on one decoder.

    The caller owns the loop: `submit` and `abort` at any time between steps,
    `step` while `has_work`. Every choice of an accepted request ends with exactly
    one `Delta` that has a `finish_reason`. Not thread-safe: one thread calls.
    """

    def __init__(
        self,
        decoder: Decoder,
        about: ModelFacts,
        options: EngineOptions,
        directory: Path,
        draft: Decoder | None = None,
    ) -> None:
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
            kv_budget=options.kv_budget,
            kv_keep=options.kv_keep or "streaming",
        )
        if options.kv_keep is not None and options.kv_budget is None:
            raise ValueError(f"kv_keep={options.kv_keep} without kv_budget: say how much to keep.")
        self.facts = about
        self.scheduler = Scheduler(policy, about.pages, options.page_size)
        kv = KVStore(
            decoder.kv_layers(),
            about.pages + 1,  # the runner's scratch page
            options.page_size,
            decoder.dtype,
            decoder.device,
            storage=decoder.kernels.pages,
        )
        longest = -(-min(about.max_model_len, self.scheduler.limits.capacity) // options.page_size)
        self._grammars = Grammars(directory, about.vocab_size, about.eos_token_ids)
        self._runner = Runner(
            decoder, kv, self._grammars, rows=options.max_running, longest=longest
        )
        self._runner.warm_up()
        self.speculator = speculator(self._runner, options, draft)
        self._generations: dict[Sequence, Generation] = {}
        self._alive: dict[str, dict[int, Sequence]] = {}  # by request, by choice or beam
        self._compiling: dict[str, list[Sequence]] = {}  # by request, until its grammar is ready
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
        drafting = draft_config(model, config, options)
        dtype = facts.choose_dtype(options, config)
        decoder = _decoder(config, directory, dtype, options)
        draft = None if drafting is None else _decoder(*drafting, dtype, options)
        threads = facts.choose_threads(options, decoder)
        torch.set_num_threads(threads)
        for loaded in filter(None, (decoder, draft)):
            loaded.kernels.threads(threads)
        about = facts.gather(model, decoder, options, draft)
        return cls(decoder, about, options, directory, draft)

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return self.scheduler.has_work or bool(self._compiling)

    @property
    def wake_at(self) -> float | None:
        """Monotonic time at which `step` has something to do though nothing arrives, if any."""
        if self._compiling and not self.scheduler.has_work:
            return time.monotonic() + COMPILING_POLL_S
        return self.scheduler.wake_at

    @property
    def decoder(self) -> Decoder:
        """The model."""
        return self._runner.decoder

    @property
    def spent(self) -> Spent:
        """Where the time of all steps so far went."""
        spent = self._runner.spent
        spent.schedule = self._scheduling
        return spent

    @property
    def speculation(self) -> Tally | None:
        """What became of guesses so far; None if nobody guesses."""
        return None if self.speculator is None else self.speculator.tally

    def submit(self, request: GenerateRequest) -> None:
        """Accept a request, or raise.

        Raises `RequestRefused` for what can never be served, `QueueFull` when
        the queue has no room, `ValueError` for an id that is in use.
        """
        about, prompt, params = self.facts, request.prompt, request.params
        if request.id in self._alive:
            raise ValueError(f"request id {request.id!r} is in use.")
        self._check_ids(prompt, "prompt", "prompt")
        self._check_ids(params.logit_bias, "logit_bias", "logit_bias")
        longest = self.scheduler.limits.longest(about.max_model_len)
        limit = longest if params.max_tokens is None else len(prompt) + params.max_tokens
        if limit > about.max_model_len or len(prompt) >= longest:
            raise _too_long(len(prompt), params.max_tokens, longest)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        made = generations(request, seed, self._enders(params), limit)
        sequences = [
            Sequence(
                id=(request.id, generation.index),
                prompt=len(prompt),
                limit=limit,
                keys=self._keys(generation),
                priority=request.priority,
            )
            for generation in made
        ]
        if params.beam is not None:
            for sequence in sequences:
                sequence.peers = tuple(sequences)
        try:
            self.scheduler.check_place(*sequences)
        except QueueFull as full:
            full.retry_after_s = self._retry_after()
            raise
        if params.grammar is None:
            self.scheduler.place(*sequences, now=time.monotonic())
        else:
            for generation in made:
                generation.guide = self._grammars.start(params.grammar)
            self._compiling[request.id] = sequences  # no step shall wait for it
        self._generations |= zip(sequences, made, strict=True)
        self._alive[request.id] = dict(enumerate(sequences))

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one choice of it, at the next step; unknown ids are ignored."""
        self._queue_compiled({request_id})
        for choice, sequence in self._alive.get(request_id, {}).items():
            if index in (None, choice):
                self.scheduler.abort(sequence.id)

    def _check_ids(self, ids: Iterable[int], what: str, field: str) -> None:
        last = self.facts.vocab_size - 1
        if (bad := next((t for t in ids if not 0 <= t <= last), None)) is not None:
            raise RequestRefused(
                f"{what} holds token id {bad}; this model's ids are 0 to {last}.", field=field
            )

    def _enders(self, params: SamplingParams) -> frozenset[int]:
        """Tokens that end a sequence."""
        return frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self._eos)

    def _keys(self, generation: Generation) -> Keys:
        if generation.prompt_logprobs is not None:
            return no_keys  # all of its prompt must be computed to be rated
        if generation.search is not None:
            # Beams share what they write by branching; only the prompt is for all.
            return PageKeys(generation.request.prompt, self.facts.page_size)
        return PageKeys(generation.tokens, self.facts.page_size)

    def step(self) -> list[Delta]:
        """Run one step of the model; return what it added, for each request that changed.

        An error in the model ends the requests that were running with
        finish_reason "error"; the engine goes on with the rest.
        """
        started = time.perf_counter()
        now = time.monotonic()
        self._queue_compiled(request for request in self._compiling if self._compiled(request))
        guesses = self._ask()
        plan = self.scheduler.schedule(now, guesses)
        self._scheduling += time.perf_counter() - started
        deltas: dict[Sequence, Delta] = {}
        self._end(deltas)  # aborted since the last step; their rows are wanted now
        error = None
        if plan is not None:
            for chunk in plan.chunks:
                generation = self._generations[chunk.sequence]
                generation.started = generation.started or now
            try:
                self._runner.place(plan, self._generations)
                self._guess(plan)
                sampled = self._runner.run(plan, self._generations)
            except Exception as broken:  # the step's requests fail, the engine lives
                log.exception("a step of the model failed")
                error = f"{type(broken).__name__}: {broken}"
                self.scheduler.fail()
            else:
                computed = time.perf_counter()
                came_true = self._learn(plan)
                stopped = self._account(sampled, deltas)
                self.scheduler.apply(plan, stopped, came_true, self._runner.attended)
                self._scheduling += time.perf_counter() - computed
                self._branch(sampled)
                if self.speculator is not None and not plan.chunks:
                    self.speculator.took(time.perf_counter() - started, plan.guessed)
            self._counters.steps += 1
        self._end(deltas, error)
        return list(deltas.values())

    def _ask(self) -> dict[Sequence, int]:
        """How many tokens to guess, and for whom."""
        if self.speculator is None:
            return {}
        started = time.perf_counter()
        scheduler = self.scheduler
        pending = min(scheduler.pending, scheduler.policy.max_step_tokens)
        guesses = self.speculator.ask(scheduler.decoding, self._generations, pending)
        self.spent.guess += time.perf_counter() - started
        return guesses

    def _guess(self, plan: StepPlan) -> None:
        if self.speculator is not None and plan.guessed:
            started = time.perf_counter()
            self.speculator.guess(plan.guessed, self._generations)
            self.spent.guess += time.perf_counter() - started

    def _learn(self, plan: StepPlan) -> dict[Sequence, int]:
        """How many guesses came true, of whom."""
        came_true = {}
        for sequence in plan.guessed:
            generation = self._generations[sequence]
            came_true[sequence] = right = len(generation.tokens) - generation.told - 1
            assert self.speculator is not None
            self.speculator.learn(sequence, generation, right)
        return came_true

    def _compiled(self, request_id: str) -> bool:
        guides = [self._generations[s].guide for s in self._compiling[request_id]]
        return all(guide is None or guide.done() for guide in guides)

    def _queue_compiled(self, requests: Iterable[str]) -> None:
        """Queue requests that were held back."""
        for request_id in list(requests):
            if (sequences := self._compiling.pop(request_id, None)) is not None:
                self.scheduler.place(*sequences, now=time.monotonic())

    def _account(
        self, sampled: list[tuple[Sequence, Generation]], deltas: dict[Sequence, Delta]
    ) -> list[Sequence]:
        """Report what was sampled; return who sampled a token that ends it."""
        now = time.monotonic()
        stopped = []
        for sequence, generation in sampled:
            new = generation.tokens[generation.told :]
            generation.told += len(new)
            newborn = generation.first == 0.0
            if newborn:
                generation.first = now
                if generation.index == 0:
                    self._counters.prompt_tokens += sequence.prompt
                    self._counters.cached_tokens += sequence.cached
            if generation.search is not None:
                if generation.search.done:
                    stopped.append(sequence)
                continue
            if generation.failure is not None:
                new.pop()  # what its grammar could not follow
            delta = deltas[sequence] = self._delta(sequence, generation, new)
            if generation.logprobs is not None:
                delta.logprobs, generation.logprobs = generation.logprobs[: len(new)], []
            if newborn:
                delta.prompt_logprobs = generation.prompt_logprobs
            self._counters.output_tokens += len(new)
            self._counters.sequence_steps += 1
            if (
                generation.failure is not None
                or generation.over
                or generation.tokens[-1] in generation.enders
            ):
                stopped.append(sequence)
        return stopped

    def _branch(self, sampled: list[tuple[Sequence, Generation]]) -> None:
        """Give the beams that live on the pages of those they go on from."""
        parents: dict[Sequence, Sequence] = {}
        moved = []
        for sequence, generation in sampled:
            search = generation.search
            if search is not None and not search.done:
                parent = sequence.peers[search.moves[generation.index][0]]
                if parent is not sequence:
                    parents[sequence] = parent
                    moved.append((sequence, generation))
        if parents:
            self._runner.branch(self.scheduler.branch(parents), moved)

    def stats(self) -> EngineStats:
        """Return a snapshot of queue, pages and totals."""
        scheduler, counters = self.scheduler, self._counters
        tally = self.speculation or Tally()
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting + sum(map(len, self._compiling.values())),
            pages_total=scheduler.pool.total,
            pages_free=scheduler.pool.free,
            pages_held=scheduler.pool.held,
            pages_cached=scheduler.pool.cached,
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            output_tokens=counters.output_tokens,
            sequence_steps=counters.sequence_steps,
            preemptions=scheduler.preemptions,
            dropped_tokens=scheduler.dropped_tokens,
            finished=counters.finished,
            cancelled=counters.cancelled,
            failed=counters.failed,
            drafts=tally.drafts,
            guessed=tally.made,
            guessed_right=tally.right,
            guess_s=self.spent.guess,
        )

    def _end(self, deltas: dict[Sequence, Delta], error: str | None = None) -> None:
        """Turn each end the scheduler reports into a finish reason and let go of its state."""
        now = time.monotonic()
        for ended in self.scheduler.ended:
            sequence = ended.sequence
            generation = self._generations.pop(sequence)
            self._runner.tables.unseat(generation)
            if self.speculator is not None:
                self.speculator.ended(sequence, generation)
            request = generation.request
            del self._alive[request.id][generation.index]
            if not self._alive[request.id]:
                del self._alive[request.id]
            if generation.index >= request.params.n:
                continue  # a beam that nobody asked to see
            delta = deltas.get(sequence)
            if delta is None:
                delta = deltas[sequence] = self._delta(sequence, generation, [])
            delta.finish_reason = "error" if generation.failure else ended.reason
            if generation.search is not None and generation.search.done:
                best = generation.search.finished[generation.index]
                delta.token_ids, delta.finish_reason = best.tokens, best.reason
                delta.score = best.score
                self._counters.output_tokens += len(best.tokens)
                self._counters.sequence_steps += len(best.tokens)
            delta.timing = _timing(sequence, generation, now)
            counters = self._counters
            if delta.finish_reason == "abort":
                counters.cancelled += 1
            elif delta.finish_reason == "error":
                counters.failed += 1
                delta.error = generation.failure or error
            else:
                counters.finished += 1
        self.scheduler.ended.clear()

    def _delta(self, sequence: Sequence, generation: Generation, tokens: list[int]) -> Delta:
        return Delta(
            request_id=generation.request.id,
            index=generation.index,
            token_ids=tokens,
            prompt_tokens=sequence.prompt,
            cached_tokens=sequence.cached,
        )

    def _retry_after(self) -> float:
        """Seconds until a place in the queue should be free, from the pace so far."""
        ended = self._counters.finished + self._counters.cancelled
        spent = self.spent
        busy = sum(msgspec.structs.astuple(spent))
        return min(60.0, max(1.0, busy / ended if ended else 1.0))


def _decoder(
    config: ModelConfig, directory: Path, dtype: torch.dtype, options: EngineOptions
) -> Decoder:
    """Load a checkpoint for the kernels that the options ask for."""
    kernels = choose(
        config,
        dtype=dtype,
        device=options.device,
        page_size=options.page_size,
        weights=options.weights,
        kv=options.kv,
        kernels=options.kernels,
        deterministic=options.deterministic,
    )
    kernels.threads(len(os.sched_getaffinity(0)))  # packing is work for all
    return loader.load_weights(config, directory, dtype, options.device, kernels)


def _timing(sequence: Sequence, generation: Generation, now: float) -> Timing:
    started = generation.started or now
    first = generation.first or now
    return Timing(
        queue_s=started - sequence.arrival,
        prefill_s=first - started,
        decode_s=now - first,
        preemptions=sequence.preemptions,
    )


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
