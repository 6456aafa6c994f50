"""Generated doctests are true, reproducible, and their splits never meet."""

import ast
import doctest
import subprocess
import sys
from itertools import islice
from random import Random

import pytest

from penstock.workload import doctests


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("grade", doctests.GRADES)
def test_the_interpreter_agrees_with_every_answer(grade: int, split: str) -> None:
    text = "".join(task.text for task in islice(doctests.tasks(1, split, [grade]), 300))
    test = doctest.DocTestParser().get_doctest(text, {}, f"grade {grade}", None, 0)
    assert len(test.examples) == 300
    report: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert outcome.failed == 0, "".join(report)


def test_documents_are_true_doctests_in_every_layout() -> None:
    rng = Random(2)
    documents = [doctests.document(rng) for _ in range(100)]
    assert any(text.startswith("def ") for text in documents)
    assert any(text.startswith("class ") for text in documents)
    assert any(text.startswith('"""') for text in documents)
    for text in documents:
        if text.startswith(("def ", "class ", '"""')):
            ast.parse(text)
        test = doctest.DocTestParser().get_doctest(
            text.replace('"""', "\n\n"), {}, "document", None, 0
        )
        assert test.examples
        assert doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed == 0


def test_splits_are_disjoint() -> None:
    train = {task.expression for task in islice(doctests.tasks(3, "train"), 3000)}
    held_out = {task.expression for task in islice(doctests.tasks(4, "held_out"), 3000)}
    assert not train & held_out


def test_the_split_never_moves() -> None:
    # Written down once: a change here would put trained tasks into the held-out set.
    sums = [f"{a} + {b}" for a in range(10, 20) for b in range(10, 13)]
    held_out = ["10 + 12", "11 + 10", "14 + 10", "15 + 12", "18 + 12", "19 + 10", "19 + 11"]
    assert [e for e in sums if doctests.is_held_out(e)] == held_out


def test_equal_seeds_give_equal_tasks_in_another_process() -> None:
    code = (
        "from itertools import islice; from penstock.workload import doctests; "
        "print([t.text for t in islice(doctests.tasks(7, 'held_out'), 50)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [task.text for task in islice(doctests.tasks(7, "held_out"), 50)]
    assert ast.literal_eval(other.stdout) == here
    assert here != [task.text for task in islice(doctests.tasks(8, "held_out"), 50)]


def test_only_the_first_line_is_judged() -> None:
    task = doctests.Task(1, "1 + 1", "2")
    assert task.is_right("2\n>>> 3 + 4\n7\n")
    assert task.is_right("2 ")
    assert not task.is_right("22")
    assert not task.is_right("\n2\n")
    assert not task.is_right("")


def test_few_shot_prompts_end_with_the_question_and_never_hold_it() -> None:
    for task in islice(doctests.tasks(5, "held_out"), 200):
        prompt = doctests.few_shot(task, shots=3)
        assert prompt == doctests.few_shot(task, shots=3)
        assert prompt.endswith(task.prompt)
        assert prompt.count(">>> ") == 4
        assert prompt.count(task.prompt) == 1
