"""Right and wrong answers of every kind, and what counts as none."""

import os
from decimal import Decimal
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from penstock.meter import check, sandbox
from penstock.meter.check import find_number, grade, grade_records
from penstock.record.record import Outcome, Record
from penstock.workload import doctests
from penstock.workload.evals import open_tasks, read_gsm8k, read_humaneval
from penstock.workload.tasks import Exact, Number, Regex, Schema, Task, UnitTests

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[3] / "shared" / "data"))
HUMANEVAL, GSM8K = DATA / "eval" / "HumanEval.jsonl.gz", DATA / "eval" / "gsm8k_test.jsonl"

needs_humaneval = pytest.mark.skipif(not HUMANEVAL.exists(), reason=f"{HUMANEVAL} is not here")
needs_gsm8k = pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is not here")


@pytest.fixture
def safe_here():
    try:
        sandbox.require()
    except sandbox.SandboxRefused as refused:
        pytest.skip(str(refused))


def task(checker, **given):
    return Task(id="t", prompt="?", checker=checker, **given)


PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("checker", "text", "correct", "answer"),
    [
        (Exact("Paris"), " Paris \n", True, "Paris"),
        (Exact("Paris"), "paris", False, "paris"),
        (Exact("Paris", ignore_case=True), "PARIS", True, "paris"),
        (Exact("Paris"), "Paris it is", False, "Paris it is"),
        (Exact("Paris"), "", False, None),
        (Exact("[1, 2]", first_line=True), "[1, 2]  \n>>> 4", True, "[1, 2]"),
        (Exact("[1, 2]", first_line=True), "\n[1, 2]", False, None),
        (Number(Decimal(7)), "It is 7.", True, "7"),
        (Number(Decimal(7)), "It is 7.5", False, "7.5"),
        (Number(Decimal("0.5"), tolerance=Decimal("0.01")), "0.505", True, "0.505"),
        (Number(Decimal(7)), "no idea", False, None),
        (Regex(r"^yes\b"), "yes, indeed", True, "yes"),
        (Regex(r"code (\d+)"), "the code 42!", True, "42"),
        (Regex(r"^yes\b"), "no", False, "no"),
        (Schema(PERSON), ' {"age": 3}\n', True, '{"age":3}'),
        (Schema(PERSON), '{"age": -3}', False, '{"age":-3}'),
        (Schema(PERSON), '{"age": 3', False, None),
        (Schema(PERSON), "[" * 100_000, False, None),
    ],
)
def test_every_kind_tells_right_from_wrong(checker, text, correct, answer):
    judged = grade(task(checker), text)
    assert (judged.correct, judged.answer) == (correct, answer)
    assert (judged.why is None) == correct


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("#### 18", "18"),
        ("16 - 3 - 4 = 9, 9 * 2 = 18\n#### 18", "18"),
        ("#### $1,450,000", "1450000"),
        ("#### 1,450,000 dollars", "1450000"),
        ("####-10", "-10"),
        ("#### -$10.50", "-10.50"),
        ("#### $-10", "-10"),
        ("#### −3", "-3"),
        ("#### 12.5%", "12.5"),
        ("#### .5", "0.5"),
        ("#### 70000.00", "70000"),
        ("#### 5\n\nQuestion: 7 apples and 9 pears", "5"),
        ("#### 4 and no: #### 6", "6"),
        ("#### none, so 3", "3"),
        ("The answer is 8 eggs, for 16 - 8 = 8.", "8"),
        ("The answer is **$2,125**.", "2125"),
        ("the final answer: 3, of the 40 there were", "3"),
        (r"So \boxed{1{,}234} km in 5 h", "1234"),
        (r"It costs \$18", "18"),
        ("It takes 3 hours and then 40 minutes.", "40"),
        ("10-3", "3"),
        ("x = -7", "-7"),
        ("(5)-3", "3"),
        ("In 2,50 steps", "50"),
        ("1,2,3", "3"),
        ("1.", "1"),
        ("18.0 of 20.25", "20.25"),
        ("Nothing at all", None),
        ("####", None),
    ],
)
def test_numbers_as_people_and_models_write_them(said, number):
    assert find_number(said) == (None if number is None else Decimal(number))


def test_equal_numbers_are_one_vote():
    votes = {grade(task(Number(Decimal(18))), said).answer for said in ("18", "$18.00", "18.0")}
    assert votes == {"18"}


def test_what_follows_a_stop_string_does_not_count():
    asked = task(Exact("4"), stop=("\n\n", "Q:"))
    assert grade(asked, "4Q: 5").correct
    assert grade(asked, "4\n\n5").correct
    assert not grade(asked, "4\n5").correct


def test_in_a_chat_thoughts_do_not_count_and_fences_are_opened():
    text = "<think>```\n5\n``` 7?</think>Well:\n```json\n4\n```\nDone."
    assert grade(task(Exact("4")), text, chat=True).correct
    assert grade(task(Number(Decimal(9))), "<think>7</think>It is 9.", chat=True).correct
    assert grade(task(Schema(PERSON)), 'Here:\n```json\n{"age": 1}\n```', chat=True).correct
    assert grade(task(Exact("4")), "```\n4", chat=True).correct  # never closed


def test_an_endless_regular_expression_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(check, "JUDGE_S", 1)
    judged = grade(task(Regex(r"^(a+)+$")), "a" * 40 + "b")
    assert (judged.correct, judged.why) == (False, "time: not judged within 1 s")


def test_code_is_judged_by_its_tests(safe_here):
    asked = task(UnitTests(before="def double(x):\n", after="assert double(2) == 4"))
    right, laid_out = "    return 2 * x", "    # twice\n    return (2*x)"
    assert grade(asked, right).correct
    assert grade(asked, right).answer == grade(asked, laid_out).answer
    wrong = grade(asked, "    return x")
    assert (wrong.correct, wrong.why) == (False, "wrong: AssertionError: ")
    assert grade(asked, "    return (").why == "wrong: this is no Python"
    assert grade(asked, "    import os; os._exit(0)").why.startswith("wrong: the program ended")


@needs_humaneval
def test_humanevals_own_solutions_pass_and_broken_ones_fail(safe_here):
    tasks = read_humaneval(HUMANEVAL)
    assert len(tasks) == 164
    for index in (0, 10, 32, 38, 53, 87, 115, 162):
        asked = tasks[index]
        assert grade(asked, asked.worked).correct, asked.id
        # A model that goes on after the function is cut where the function ends.
        assert grade(asked, asked.worked + "\ndef f(:\n").correct, asked.id
        assert grade(asked, asked.worked_chat, chat=True).correct, asked.id
        wrong = grade(asked, "    return None\n" + asked.worked)
        assert not wrong.correct, asked.id
        assert wrong.why.startswith("wrong: "), wrong


@pytest.mark.slow
@needs_humaneval
def test_all_of_humanevals_solutions_pass(safe_here):
    tasks = read_humaneval(HUMANEVAL)
    failed = {asked.id: why for asked in tasks if (why := grade(asked, asked.worked).why)}
    assert failed == {}


@needs_gsm8k
def test_every_solution_of_gsm8k_is_right_and_another_is_not():
    tasks = read_gsm8k(GSM8K)
    assert len(tasks) == 1319
    for asked, other in zip(tasks, [*tasks[1:], tasks[0]], strict=True):
        assert grade(asked, asked.worked).correct, asked.id
        same = asked.checker.answer == other.checker.answer
        assert grade(asked, other.worked).correct == same, asked.id
        assert "<<" not in asked.worked


def test_doctests_are_graded_as_their_own_module_grades_them():
    asked = {t.checker.answer: t for t in open_tasks("doctests", limit=50).tasks}
    own = islice(doctests.tasks(0, "held_out"), 50)
    answers = [*asked, "", " ", "'x", "[1, 2"]
    for question in own:
        if question.answer not in asked:
            continue
        for said in answers:
            for text in (said, f"{said}  \n>>> 2", f"\n{said}"):
                graded = grade(
                    task(Exact(question.answer, first_line=True)),
                    text,
                )
                assert graded.correct == question.is_right(text)


def record(sample, text="4", outcome=Outcome.FINISHED, **given):
    return Record(
        request_id=str(sample),
        task="t",
        sample=sample,
        sched_ns=0,
        text=text,
        outcome=outcome,
        **given,
    )


async def test_errors_and_cut_answers_are_wrong_and_the_unfinished_are_not_judged():
    records = [
        record(0, finish_reason="stop"),
        record(1, finish_reason="length"),
        record(2, text=None, outcome=Outcome.FAILED, error="http_500: oh no"),
        record(3, finish_reason="content_filter"),
        record(4, outcome=Outcome.CANCELLED),
        record(5, text="4\nfor ever", finish_reason="length"),
    ]
    asked = task(Exact("4"), stop=("\n",))
    await grade_records(records, {"t": asked})
    assert [(r.correct, r.wrong_why and r.wrong_why.partition(":")[0]) for r in records] == [
        (True, None),
        (False, "cut"),
        (False, "error"),
        (False, "refused"),
        (None, None),
        (True, None),  # its target knows no stop strings; the answer was over before the limit
    ]
    await grade_records(records[5:], {"t": asked}, chat=True)
    assert records[5].wrong_why.startswith("cut")


async def test_slow_judgements_run_side_by_side_and_can_be_given_up(safe_here):
    checker = UnitTests(after="", before="import time\ntime.sleep(0.2)\n")
    records = [record(i, text=f"x = {i}", finish_reason="stop") for i in range(6)]
    seen = []
    await grade_records(
        records, {"t": task(checker)}, processes=2, go_on=lambda *of: not seen.append(of)
    )
    assert all(r.correct for r in records)
    assert seen[-1] == (6, 6)
    assert records[3].answer == "import time\ntime.sleep(0.2)\nx = 3"
    again = [msgspec.structs.replace(r, correct=None) for r in records]
    await grade_records(again, {"t": task(checker)}, processes=1, go_on=lambda *of: False)
    assert sum(r.correct is None for r in again) > 0
