"""The benchmarks whose files are read as they are, and the doctests that come with the package.

HumanEval: Chen et al. 2021, "Evaluating Large Language Models Trained on Code".
GSM8K: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems".
"""

from __future__ import annotations

import gzip
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.workload import doctests
from penstock.workload.tasks import Exact, Number, Task, TaskSet, UnitTests, named_apart, read_tasks

DOCTESTS = 200  # tasks, where nobody says how many
# No two are the same, so they grow rare; an accuracy over so many is known to 1.4 points.
MOST_DOCTESTS = 5_000
_SHOTS = {"doctests": 4, "gsm8k": 4}  # examples that are usual; none elsewhere
T = TypeVar("T")


def open_tasks(
    spec: str, *, limit: int | None = None, few_shot: int | None = None, seed: int = 0
) -> TaskSet:
    """Tasks by name: `doctests`, `humaneval:PATH`, `gsm8k:PATH`, or a JSONL file of one's own.

    `limit` takes the first so many. The examples of `few_shot` are the first
    tasks of a file, which are then not asked; doctests have examples of
    their own. Raises `ValueError` for what cannot be read and for more than
    `MOST_DOCTESTS` of these, `OSError` as `open`.
    """
    kind, _, place = spec.partition(":")
    shots = _SHOTS.get(kind, 0) if few_shot is None else few_shot
    if spec == "doctests":
        return TaskSet(
            name=f"held-out doctests, {shots} answered ones before each",
            tasks=_doctests(limit or DOCTESTS, shots, seed),
        )
    if kind in _READERS and place:
        tasks = _READERS[kind](Path(place))
        name = {"humaneval": "HumanEval", "gsm8k": "GSM8K"}[kind]
    elif spec.endswith(".jsonl"):
        tasks, name = read_tasks(Path(spec)), Path(spec).name
    else:
        raise ValueError(
            f"{spec!r} names no tasks; write doctests, humaneval:PATH, gsm8k:PATH or FILE.jsonl"
        )
    examples, asked = tasks[:shots], tasks[shots:][:limit]
    if not asked:
        raise ValueError(f"{name} has {len(tasks)} tasks; with {shots} as examples none is left")
    for example in examples:
        if example.worked is None:
            raise ValueError(
                f"{name}: task {example.id} is to be an example, but has no worked answer "
                '("worked"); leave --few-shot out'
            )
    return TaskSet(name=name, tasks=asked, examples=examples)


def _doctests(count: int, shots: int, seed: int) -> list[Task]:
    if count > MOST_DOCTESTS:
        raise ValueError(f"limit={count:,} doctests; {MOST_DOCTESTS:,} is the most. Ask fewer.")
    chosen: dict[str, Task] = {}
    for task in doctests.tasks(seed, "held_out"):
        if len(chosen) == count:
            break
        chosen[task.expression] = Task(
            id=f"{task.grade}: {task.expression}",
            prompt=doctests.few_shot(task, shots),
            instruction=(
                "Answer with what the Python interpreter prints, and with nothing else.\n\n"
                f"{doctests.few_shot(task, shots)}"
            ),
            checker=Exact(answer=task.answer, first_line=True),
            stop=("\n",),
            max_tokens=64,
        )
    return list(chosen.values())


class _HumanEval(msgspec.Struct):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def read_humaneval(path: Path) -> list[Task]:
    """Functions to be written, with their unit tests; the file may be gzipped."""
    return named_apart(
        [
            Task(
                id=row.task_id,
                prompt=row.prompt,
                instruction=(
                    "Write this Python function. Answer with the whole function, in one block of "
                    f"code.\n\n```python\n{row.prompt}```"
                ),
                checker=UnitTests(
                    before=row.prompt, after=f"{row.test}\ncheck({row.entry_point})\n"
                ),
                worked=row.canonical_solution,
                worked_chat=f"```python\n{row.prompt}{row.canonical_solution}```",
                # What begins in the first column is no longer the function. Four at most:
                # OpenAI's API takes no more.
                stop=("\ndef ", "\nclass ", "\nif ", "\nprint("),
                max_tokens=512,
            )
            for row in _rows(path, _HumanEval)
        ],
        str(path),
    )


class _GSM8K(msgspec.Struct):
    question: str
    answer: str


def read_gsm8k(path: Path) -> list[Task]:
    """Word problems with a number as the answer, which their solutions end with after `####`."""
    tasks = []
    for number, row in enumerate(_rows(path, _GSM8K), 1):
        solution, mark, answer = row.answer.rpartition("####")
        try:
            right = Decimal(answer.strip().replace(",", ""))
        except InvalidOperation:
            mark = ""
        if not mark:
            raise ValueError(f"{path}, line {number}: the answer does not end in #### NUMBER")
        # Solutions carry notes for a calculator, <<2*3=6>>, which no model is to imitate.
        worked = re.sub(r"<<.*?>>", "", solution) + f"#### {answer.strip()}"
        tasks.append(
            Task(
                id=f"gsm8k/{number}",
                prompt=f"Question: {row.question}\nAnswer:",
                instruction=(
                    f"{row.question}\n\nThink step by step, and end with a line of four hash "
                    "signs and the number: #### 42"
                ),
                checker=Number(answer=right),
                worked=f" {worked}",
                worked_chat=worked,
                stop=("\nQuestion:",),
                max_tokens=512,
            )
        )
    return named_apart(tasks, str(path))


_READERS = {"humaneval": read_humaneval, "gsm8k": read_gsm8k}


def _rows(path: Path, kind: type[T]) -> list[T]:
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            rows.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows
