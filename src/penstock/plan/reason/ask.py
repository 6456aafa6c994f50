"""Ask every question once, with many samples: the answers, and how long they took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock import models
from penstock.engine.request import MAX_CHOICES, ModelFacts, SamplingParams
from penstock.meter.check import grade_records
from penstock.record.record import Outcome, Record
from penstock.workload.evals import MOST_DOCTESTS, open_tasks
from penstock.workload.tasks import Task, TaskSet

if TYPE_CHECKING:
    from penstock.engine.llm import LLM, Completion
    from penstock.engine.model.tokenizer import Tokenizer

SIDE_BY_SIDE = 256  # samples that run at once; more wait for a seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked, and how. `samples` are the numbers of samples to be compared.

    Raises `ValueError` naming what cannot be.
    """

    samples: tuple[int, ...] = (1, 4, 16, 64)
    questions: int = 200
    shots: int = 4
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if list(self.samples) != sorted(set(self.samples)) or self.samples[0] < 1:
            raise ValueError(f"samples={self.samples}: write each number once, rising from 1.")
        if self.most > MAX_CHOICES:
            raise ValueError(f"samples={self.most} of one prompt; {MAX_CHOICES} is the most.")
        if self.questions > MOST_DOCTESTS:
            raise ValueError(
                f"questions={self.questions:,}; {MOST_DOCTESTS:,} is the most. Ask fewer."
            )
        if not 0 < self.temperature <= 2:
            raise ValueError(
                f"temperature={self.temperature} must lie in (0, 2]: at 0 all samples are the same."
            )

    @property
    def most(self) -> int:
        """Samples that every question gets; what fewer would say is read off these."""
        return self.samples[-1]


@dataclass(frozen=True, slots=True)
class Timed:
    """One question by itself in the engine, its prompt new to it, with so many samples."""

    samples: int
    seconds: float  # from the prompt's text to the last answer's
    first_s: float  # of those, to the first token
    tokens: int  # of all its answers


@dataclass(slots=True)
class Answers:
    """What was answered: `samples` by task, each in its order, and `greedy`; all of it graded."""

    asking: Asking
    tasks: str
    model: ModelFacts
    samples: dict[str, list[Record]] = field(default_factory=dict)
    greedy: list[Record] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every question was asked."""
        return len(self.samples) == self.asking.questions


def open_model(model: str, asking: Asking) -> LLM:
    """Load what is to answer.

    Raises `ValueError` for random weights, and as `Engine.load`.
    """
    from penstock.engine.llm import LLM
    from penstock.engine.options import EngineOptions

    if models.is_synthetic(models.path(model)):
        raise ValueError(
            f"{model} holds random weights: none of its answers means anything. Name a trained "
            "model, such as embedded; speed alone is for penstock bench."
        )
    seats = min(asking.most, SIDE_BY_SIDE)
    return LLM(model, EngineOptions(max_running=seats, max_step_tokens=seats + 512))


def ask(
    llm: LLM, asking: Asking, go_on: Callable[[int, int], bool] = lambda done, all_: True
) -> Answers:
    """Ask held-out doctests, one after the other, each with all its samples at once.

    `go_on(done, all)` is called before each question and once at the end; where it
    returns False, what is answered by then is what there is.

    Questions take turns at being timed with each of `asking.samples`, before
    the rest of their samples is drawn: what a sample says depends on its number
    alone, so these are the same samples, and no timed prompt was seen before.
    """
    tasks = open_tasks("doctests", limit=asking.questions, few_shot=asking.shots, seed=asking.seed)
    ends = _ending(llm.tokenizer, tasks)
    answers = Answers(asking, tasks.name, llm.engine.facts)
    llm.generate(["warm up"], SamplingParams(n=asking.most, max_tokens=2, ignore_eos=True))
    for index, task in enumerate(tasks.tasks):
        if not go_on(index, len(tasks.tasks)):
            break
        params = {
            n: SamplingParams(
                n=n,
                temperature=asking.temperature,
                seed=asking.seed + index,
                max_tokens=task.max_tokens,
                stop_token_ids=ends,
            )
            for n in asking.samples
        }
        turn = asking.samples[index % len(asking.samples)]
        completion = _timed(llm, task, params[turn], answers.timed)
        if turn < asking.most:
            (completion,) = llm.generate([task.prompt], params[asking.most])
        answers.samples[task.id] = list(_records(task, completion))
    _ask_greedily(llm, tasks.tasks[: len(answers.samples)], ends, answers)
    everything = [*answers.greedy, *(r for group in answers.samples.values() for r in group)]
    asyncio.run(grade_records(everything, {task.id: task for task in tasks.tasks}))
    go_on(len(answers.samples), len(tasks.tasks))
    return answers


def _timed(llm: LLM, task: Task, params: SamplingParams, timed: list[Timed]) -> Completion:
    started = time.perf_counter()
    (completion,) = llm.generate([task.prompt], params)
    seconds = time.perf_counter() - started
    choices = completion.choices
    timed.append(
        Timed(
            samples=params.n,
            seconds=seconds,
            first_s=min(c.timing.queue_s + c.timing.prefill_s for c in choices),
            tokens=sum(len(c.token_ids) for c in choices),
        )
    )
    return completion


def _ask_greedily(llm: LLM, tasks: Sequence[Task], ends: tuple[int, ...], into: Answers) -> None:
    params = [
        SamplingParams(temperature=0, max_tokens=task.max_tokens, stop_token_ids=ends)
        for task in tasks
    ]
    said = llm.generate([task.prompt for task in tasks], params)
    for task, completion in zip(tasks, said, strict=True):
        into.greedy += _records(task, completion)


def _records(task: Task, completion: Completion) -> Iterator[Record]:
    for sample, choice in enumerate(completion.choices):
        failed = choice.finish_reason == "error"
        yield Record(
            request_id=f"{task.id}.{sample}",
            outcome=Outcome.FAILED if failed else Outcome.FINISHED,
            error=choice.error,
            sched_ns=0,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=len(choice.token_ids),
            finish_reason=choice.finish_reason,
            task=task.id,
            sample=sample,
            text=choice.text,
        )


def _ending(tokenizer: Tokenizer, tasks: TaskSet) -> tuple[int, ...]:
    """Tokens that hold a string at which every task stops: nothing after them counts."""
    stops = {stop.encode() for stop in tasks.tasks[0].stop}
    return tuple(
        token
        for token in range(tokenizer.vocab_size)
        if any(stop in tokenizer.token_bytes(token) for stop in stops)
    )
