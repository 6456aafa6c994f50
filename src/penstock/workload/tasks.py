"""Tasks: prompts whose answers can be told right from wrong.

A task says what is asked and by which rule the answer is judged; judging is
`penstock.meter.check`'s. One's own tasks are a JSONL file, one task a line:

    {"prompt": "2 + 2 =", "checker": {"type": "number", "answer": 4}, "max_tokens": 8}

`penstock.workload.evals` reads the files of known benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from penstock.workload.plan import Ask, Asks, Plan, Sampling
from penstock.workload.prompts import Content


class Exact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="exact"):
    """The answer itself, white space around it apart."""

    answer: str
    first_line: bool = False  # look at nothing else of what was said
    ignore_case: bool = False


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """A number, found in whatever was said around it; may be off by `tolerance`."""

    answer: Decimal
    tolerance: Decimal = Decimal(0)


class Regex(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="regex"):
    """Any answer in which the pattern is found; its first group is what is voted on."""

    pattern: str


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="json_schema"):
    """Any JSON that the schema accepts."""

    schema: dict[str, Any]


class UnitTests(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tests"):
    """Code that, between `before` and `after`, runs to its end as a Python program.

    `site` lets it import installed packages, not only the standard library.
    """

    after: str
    before: str = ""
    site: bool = False


Checker = Exact | Number | Regex | Schema | UnitTests


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question.

    `prompt` is to be continued; `instruction` says the same to a chat model, and
    is the prompt if None. `worked` is an answer as it should look, wanted of
    tasks that serve as examples, and `worked_chat` that of a chat model.
    `stop` ends a continuation, and whatever follows it does not count.
    """

    id: str = ""
    prompt: str
    checker: Checker
    instruction: str | None = None
    worked: str | None = None
    worked_chat: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 256


class TaskSet(msgspec.Struct, kw_only=True):
    """Tasks to ask, after examples that are shown before each, to be continued or as a chat.

    It is a source of prompts (see `Prompts`): the `samples` of one task follow
    one another.
    """

    name: str
    tasks: list[Task]
    examples: list[Task] = []
    gap: str = "\n\n"  # between an example and what follows, where prompts are continued
    chat: bool = False
    samples: int = 1

    sized = False
    exact = True
    unique = False  # the examples open each of them, and a task is asked more than once

    @property
    def description(self) -> str:
        """See `Prompts`."""
        shown = f", {len(self.examples)} examples before each" if self.examples else ""
        form = "as a chat" if self.chat else "to be continued"
        return f"{len(self.tasks)} tasks of {self.name}, {form}{shown}"

    @property
    def runs_code(self) -> bool:
        """Whether answers are run as programs, which wants a sandbox."""
        return any(isinstance(task.checker, UnitTests) for task in self.tasks)

    @property
    def requests(self) -> int:
        """As many as ask every task as often as it is sampled."""
        return len(self.tasks) * self.samples

    def task(self, index: int) -> Task:
        """The task of request `index`."""
        return self.tasks[index // self.samples % len(self.tasks)]

    def prompt(self, index: int, tokens: int) -> Content:
        """See `Prompts`; `tokens` is not heeded."""
        task = self.task(index)
        if not self.chat:
            shown = [f"{e.prompt}{e.worked}{self.gap}" for e in self.examples]
            return "".join(shown) + task.prompt
        messages: list[dict[str, Any]] = []
        for example in self.examples:
            messages += [
                {"role": "user", "content": example.instruction or example.prompt},
                {"role": "assistant", "content": example.worked_chat or example.worked},
            ]
        return [*messages, {"role": "user", "content": task.instruction or task.prompt}]

    def sample(self, plan: Plan, temperature: float, seed: int) -> Plan:
        """The plan, made of this source, with every ask's task, length, stops and seed.

        Each sample is a request of its own rather than a choice of one (`n`): any server
        understands that, and one that fails takes no other with it.
        """

        def make(index: int) -> Ask:
            ask, task = plan.asks[index], self.task(index)
            number = index % self.samples
            return msgspec.structs.replace(
                ask,
                task=task.id,
                sample=number,
                output_tokens=task.max_tokens,
                sampling=Sampling(
                    temperature=temperature,
                    seed=_seed(seed, task.id, number) if temperature else None,
                    stop=() if self.chat else task.stop,
                ),
            )

        return msgspec.structs.replace(
            plan,
            asks=Asks(make, range(len(plan.asks))),
            conditions={
                **plan.conditions,
                "samples_per_prompt": self.samples,
                "sampling": f"temperature {temperature:g}" if temperature else "greedy",
                "output_tokens_asked": f"at most {max(task.max_tokens for task in self.tasks)}",
                "output_length": "as the model likes, up to a limit",
            },
        )


def _seed(*of: object) -> int:
    digest = blake2b(repr(of).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33  # every server takes 31 bits


def read_tasks(path: Path) -> list[Task]:
    """Tasks of a JSONL file in our own format; raises `ValueError` naming the line."""
    decoder = msgspec.json.Decoder(Task)
    tasks = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            task = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        tasks.append(task if task.id else msgspec.structs.replace(task, id=f"{number}"))
    return named_apart(tasks, str(path))


def named_apart(tasks: Sequence[Task], source: str) -> list[Task]:
    """The tasks, if there are any and no two have one name; else raises `ValueError`."""
    if not tasks:
        raise ValueError(f"{source} holds no task")
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"{source} has two tasks with the id {task.id!r}; rename one")
        seen.add(task.id)
    return list(tasks)
