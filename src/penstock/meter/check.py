"""Tells right answers from wrong ones, when the run is over.

Whatever may take long is judged in processes of its own: a regular expression
can run for years, and a program can do anything. An answer that never came, or
was cut before its end, is a wrong answer.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

import msgspec

from penstock.meter import sandbox
from penstock.record.record import Outcome, Record
from penstock.workload.tasks import Checker, Exact, Number, Regex, Schema, Task, UnitTests

T = TypeVar("T")
JUDGE_S = 5  # for one regular expression or schema; programs have the sandbox's limits


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement: `answer` is what was said in the end, as votes are counted; None if nothing.

    `why` says what is wrong with it.
    """

    correct: bool
    answer: str | None = None
    why: str | None = None


def grade(task: Task, text: str, *, chat: bool = False, unsafe: bool = False) -> Grade:
    """Judge what a model said to a task; call it in a process's main thread.

    `chat` says that it was free to say it in its own way: thoughts are left out,
    and code and data are looked for in the last fenced block. Raises
    `SandboxRefused` for code that cannot be run safely here, unless `unsafe`.
    """
    said = _said_in_chat(task.checker, text) if chat else _cut(task, text)
    match task.checker:
        case Exact() as exact:
            return _exact(exact, said)
        case Number() as number:
            return _number(number, said)
        case Regex() as regex:
            return _in_time(_regex, regex, said)
        case Schema() as schema:
            return _in_time(_schema, schema, said)
        case UnitTests() as tests:
            return _tests(tests, said, unsafe)


async def grade_records(
    records: Sequence[Record],
    tasks: Mapping[str, Task],
    *,
    chat: bool = False,
    unsafe: bool = False,
    processes: int | None = None,
    go_on: Callable[[int, int], bool] = lambda done, total: True,
) -> None:
    """Fill in `correct`, `answer` and `wrong_why` of all records that have a task and ended.

    `go_on(done, total)` is called at least every second with how many of the answers
    that take long are graded; where it returns False, what is left stays
    ungraded (None). Raises as `grade`.
    """
    slow: list[Record] = []
    for record in records:
        if record.task is None or record.outcome in (Outcome.CANCELLED, Outcome.UNFINISHED):
            continue
        task = tasks[record.task]
        if why := _missing(task, record, chat):
            record.correct, record.wrong_why = False, why
        elif isinstance(task.checker, Exact | Number):
            _fill(record, grade(task, record.text or "", chat=chat))
        else:
            slow.append(record)
    if not slow:
        return
    workers = processes or os.cpu_count() or 1
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),  # a fork would copy locks that other threads hold
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is for us to hear
    )
    loop, done, left = asyncio.get_running_loop(), 0, iter(slow)
    judging: dict[asyncio.Future[Grade], Record] = {}
    try:
        while done < len(slow):
            # A few at a time: enough to keep them busy, and little to wait for if we give up.
            for record in islice(left, 4 * workers - len(judging)):
                task, text = tasks[record.task or ""], record.text or ""
                judging[loop.run_in_executor(pool, _grade, task, text, chat, unsafe)] = record
            over, _ = await asyncio.wait(judging, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for future in over:
                _fill(judging.pop(future), future.result())
            done += len(over)
            if not go_on(done, len(slow)):
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _grade(task: Task, text: str, chat: bool, unsafe: bool) -> Grade:
    return grade(task, text, chat=chat, unsafe=unsafe)


def _fill(record: Record, judged: Grade) -> None:
    record.correct, record.answer, record.wrong_why = judged.correct, judged.answer, judged.why


def _missing(task: Task, record: Record, chat: bool) -> str | None:
    """Why there is no whole answer to judge; None if there is one."""
    if record.outcome is Outcome.FAILED:
        error = (record.error or "unknown").partition(":")[0]
        return "empty" if error == "empty_answer" else f"error: {error}"
    if record.finish_reason == "content_filter":
        return "refused: content_filter"
    # A target that knows no stop strings goes on; what came before them is whole.
    stopped = not chat and any(stop in (record.text or "") for stop in task.stop)
    if record.finish_reason == "length" and not stopped:
        return "cut: the limit of tokens came before the end of the answer"
    return None


def _cut(task: Task, text: str) -> str:
    """The text up to the first of the task's stop strings."""
    return text[
        : min((at for stop in task.stop if (at := text.find(stop)) >= 0), default=len(text))
    ]


_FENCED = re.compile(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)


def _said_in_chat(checker: Checker, text: str) -> str:
    said = text.rpartition("</think>")[2]
    if isinstance(checker, Number | Regex):
        return said
    blocks = _FENCED.findall(said)
    return blocks[-1] if blocks else said


def _exact(checker: Exact, said: str) -> Grade:
    answer = (said.partition("\n")[0] if checker.first_line else said.strip()).rstrip()
    right = checker.answer.strip()
    if checker.ignore_case:
        answer, right = answer.casefold(), right.casefold()
    return _judged(answer == right, answer or None)


def _number(checker: Number, said: str) -> Grade:
    value = find_number(said)
    if value is None:
        return _judged(False, None)
    right = value == checker.answer or abs(value - checker.answer) <= checker.tolerance
    # Normalised, so that 18, 18.0 and $18.00 are one vote.
    return _judged(right, format(value.normalize(), "f"))


_DIGITS = re.compile(r"(?:(?<![\w.)])-)?(?:\d+(?:\.\d+)?|\.\d+)")
_ANNOUNCED = re.compile(r"####|\\boxed\s*\{|\banswer\s*(?:is|:|=)", re.IGNORECASE)


def find_number(said: str) -> Decimal | None:
    r"""The number somebody ends with: the first one after the last announcement of an answer.

    Announcements are `####`, `\boxed{`, "answer is", "answer:"; without one it is the
    last number of all. Currency signs, commas between thousands and units are
    passed over; a minus between two numbers is no sign.
    """
    plain = said.replace("−", "-").replace("{,}", ",")
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"\\?[$€£]\s?", "", plain)
    for announced in reversed(list(_ANNOUNCED.finditer(plain))):
        if found := _DIGITS.search(plain, announced.end()):
            return Decimal(found[0])
    everywhere = _DIGITS.findall(plain)
    return Decimal(everywhere[-1]) if everywhere else None


def _regex(checker: Regex, said: str) -> Grade:
    found = re.search(checker.pattern, said)
    if found is None:
        return _judged(False, said.strip() or None)
    return _judged(True, found[1] if found.re.groups else found[0])


def _schema(checker: Schema, said: str) -> Grade:
    from jsonschema.validators import validator_for

    try:
        data = msgspec.json.decode(said.strip())
    except (msgspec.DecodeError, RecursionError) as error:
        return Grade(correct=False, why=f"no JSON: {error}")
    fault = next(validator_for(checker.schema)(checker.schema).iter_errors(data), None)
    return Grade(
        correct=fault is None,
        answer=msgspec.json.encode(data, order="deterministic").decode(),
        why=fault and f"wrong: {fault.message}"[:200],
    )


def _tests(checker: UnitTests, said: str, unsafe: bool) -> Grade:
    program = f"{checker.before}{said}\n"
    try:
        vote = ast.unparse(ast.parse(program))  # layout and comments have no say
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Grade(correct=False, why="wrong: this is no Python")
    result = sandbox.run(program + checker.after, unsafe=unsafe, site=checker.site)
    why = result.error if (result.error or "").startswith("time") else f"wrong: {result.error}"
    return Grade(correct=result.error is None, answer=vote, why=result.error and why)


def _judged(correct: bool, answer: str | None) -> Grade:
    why = None if correct else "no answer was found" if answer is None else "wrong"
    return Grade(correct=correct, answer=answer, why=why)


def _in_time(judge: Callable[[T, str], Grade], checker: T, said: str) -> Grade:
    """Judge with an alarm set: Python's regular expressions heed signals, not threads."""

    def alarm(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(JUDGE_S)
    try:
        return judge(checker, said)
    except TimeoutError:
        return Grade(correct=False, why=f"time: not judged within {JUDGE_S} s")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
