"""Plans for the operating points that the options name, or that a search comes to."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator

import msgspec
from tokenizers import Tokenizer

from penstock.meter import sandbox
from penstock.meter.options import Options
from penstock.meter.target import Target
from penstock.workload.evals import open_tasks
from penstock.workload.plan import Plan
from penstock.workload.prompts import CutPrompts, GivenPrompts, Prompts, from_file, held_out_stdlib
from penstock.workload.sessions import Recorded
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source
from penstock.workload.tasks import TaskSet
from penstock.workload.traces import Trace, read_trace

_SAMPLE = 2000  # characters sent to learn how many make a token


class Plans(msgspec.Struct, kw_only=True):
    """Makes plans; each has prompts of its own, except that tasks are always the same."""

    options: Options
    source: Source
    trace: Trace | None = None  # whose arrivals are replayed
    tasks: TaskSet | None = None

    @classmethod
    async def open(cls, target: Target, options: Options, tokenizer: Tokenizer | None) -> Plans:
        """Read what the options name.

        Raises `ValueError` for a file or a length that cannot be used, `OSError`
        for a file that cannot be read.
        """
        if options.tasks is not None:
            tasks = _tasks(options, options.tasks, target)
            return cls(options=options, source=_task_source(tasks, options), tasks=tasks)
        source, trace = await _source(target, options, tokenizer), None
        if options.trace is not None:
            trace = read_trace(options.trace, options.limit)
            if trace.sessions is not None:
                # Its turns wait for their answers, so only how sessions begin is ours to say.
                source.shape, sessions = Recorded(trace, options.speed), len(trace.sessions)
                options = msgspec.structs.replace(options, requests=options.requests or sessions)
                trace = None
            elif options.concurrency:
                raise ValueError(
                    f"{options.trace} says when requests come; leave --concurrency out"
                )
        return cls(options=options, source=source, trace=trace)

    def given(self) -> Iterator[Plan]:
        """A plan for each operating point that the options name."""
        options = self.options
        if self.tasks is not None:
            # The same tasks at every number of samples, so that the points can be compared.
            for samples in options.samples:
                asked = msgspec.structs.replace(self.tasks, samples=samples)
                self.source = _task_source(asked, options)
                for plan in self._each(asked.requests):
                    yield asked.sample(plan, _temperature(options), options.seed)
        elif self.trace is not None:
            yield self.source.replay(self.trace, options.speed, options.warmup)
        else:
            yield from self._each(options.requests)

    def at(self, load: float) -> Plan:
        """A plan for a load that a search came to: requests at once, or requests/s."""
        arrivals, seconds = self.options.arrivals, self.options.limit_s
        if not arrivals:
            return self._closed(int(load), self.options.requests)
        law = arrivals[0].scaled(load / arrivals[0].mean_rate(seconds))
        return self.source.open(
            law, count=self.options.requests, seconds=seconds, warmup=self.options.warmup
        )

    def _each(self, requests: int | None) -> Iterator[Plan]:
        options = self.options
        for law in options.arrivals:
            seconds = None if requests else options.limit_s
            yield self.source.open(law, count=requests, seconds=seconds, warmup=options.warmup)
        for slots in () if options.arrivals else options.slots:
            yield self._closed(slots, requests)

    def _closed(self, slots: int, requests: int | None) -> Plan:
        options = self.options
        # Enough that time runs out first: two answers a slot and second, thirty at least;
        # but more than the tokens allow would never be sent.
        seldom = options.input_len.mean + options.output_len.mean
        affordable = max(slots, math.ceil(options.budget / seldom))
        plenty = min(math.ceil(options.limit_s * max(30, 2 * slots)), affordable)
        return self.source.closed(slots, requests or plenty, options.warmup, options.think_s)


def _tasks(options: Options, name: str, target: Target) -> TaskSet:
    """The tasks to ask; raises `ValueError` for those that cannot be, or not safely."""
    if options.trace is not None:
        raise ValueError("tasks are asked at a rate or in a closed loop, not by a trace")
    if options.search:
        raise ValueError("tasks are asked at given loads; leave the search for a load out")
    if (target.info.facts or {}).get("synthetic"):
        raise ValueError(
            f"{target.info.model} has random weights: its speed means something, its answers "
            "nothing. Leave --tasks out, or ask a trained model."
        )
    if target.info.reads_sketches:
        raise ValueError("a simulated fleet says nothing that could be graded; leave --tasks out")
    tasks = open_tasks(name, limit=options.limit, few_shot=options.few_shot, seed=options.seed)
    tasks.chat = target.info.chat
    if tasks.runs_code:  # now, not when the answers are there
        sandbox.protections() if options.unsafe_sandbox else sandbox.require()
    return tasks


def _task_source(tasks: TaskSet, options: Options) -> Source:
    return Source(
        prompts=tasks,
        input_len=options.input_len,
        output_len=options.output_len,
        seed=options.seed,
    )


def _temperature(options: Options) -> float:
    if options.temperature is not None:
        return options.temperature
    return 0.8 if max(options.samples) > 1 else 0.0


async def _source(target: Target, options: Options, tokenizer: Tokenizer | None) -> Source:
    salt = options.salt or secrets.token_hex(4)
    prompts: Prompts
    if target.info.reads_sketches:
        prompts = Sketches()
    elif options.prompts is None:
        prompts = held_out_stdlib(salt=salt, seed=options.seed, tokenizer=tokenizer)
    else:
        prompts = from_file(options.prompts, salt=salt, seed=options.seed, tokenizer=tokenizer)
    if options.shortener is not None and isinstance(prompts, (CutPrompts, GivenPrompts)):
        prompts = prompts.shortened(options.shortener)
    if isinstance(prompts, CutPrompts) and tokenizer is None:
        sample = prompts.sample(_SAMPLE)
        tokens = await target.count_prompt(sample) or 0
        if len(sample) / 12 < tokens < len(sample):  # else that count is not to be believed
            prompts.characters_per_token = len(sample) / tokens
    context = options.context or target.info.context
    if context is not None and tokenizer is not None:
        # What a chat template adds to every prompt must fit as well.
        bare = len(tokenizer.encode("a").ids)
        context -= max(0, (await target.count_prompt("a") or bare) - bare)
    return Source(
        prompts=prompts,
        input_len=options.input_len,
        output_len=options.output_len,
        seed=options.seed,
        context=context,
        shape=options.workload.shape,
        n=options.n,
    )
