"""Tasks as they are read and asked."""

import os
from pathlib import Path

import pytest

from penstock.workload import doctests
from penstock.workload.evals import open_tasks, read_gsm8k
from penstock.workload.lengths import parse_lengths
from penstock.workload.source import Source
from penstock.workload.tasks import Exact, Number, Regex, Schema, UnitTests, read_tasks

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[3] / "shared" / "data"))
GSM8K = DATA / "eval" / "gsm8k_test.jsonl"

OWN = """
{"prompt": "2 + 2 =", "checker": {"type": "number", "answer": 4}, "worked": " 4", "max_tokens": 8}
{"prompt": "Say yes.", "checker": {"type": "exact", "answer": "yes"}, "stop": [".", "!"]}
{"id": "r", "prompt": "A code?", "checker": {"type": "regex", "pattern": "\\\\d+"}}
{"prompt": "JSON", "checker": {"type": "json_schema", "schema": {"type": "object"}}}

{"prompt": "def f():", "checker": {"type": "tests", "after": "f()", "site": true}}
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(OWN)
    return path


def plan(tasks, samples=1, temperature=0.8, seed=0, chat=False):
    tasks.samples, tasks.chat = samples, chat
    source = Source(
        prompts=tasks, input_len=parse_lengths("1"), output_len=parse_lengths("1"), seed=0
    )
    return tasks.sample(source.closed(4, tasks.requests), temperature, seed)


def test_every_kind_of_ones_own(own):
    tasks = read_tasks(own)
    assert [task.id for task in tasks] == ["2", "3", "r", "5", "7"]  # by line
    assert [type(task.checker) for task in tasks] == [Number, Exact, Regex, Schema, UnitTests]
    assert tasks[1].stop == (".", "!")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "x"}', "line 1: .*checker"),
        ('{"prompt": "x", "checker": {"type": "magic"}}', "line 1: .*magic"),
        ('{"prompt": "x", "checker": {"type": "number", "answer": "four"}}', "line 1: "),
        ('{"prompt": "x", "cheker": 1}', "line 1: .*cheker"),
        ("{", "line 1: "),
        ("", "holds no task"),
        (
            '{"id": "1", "prompt": "x", "checker": {"type": "exact", "answer": "a"}}\n' * 2,
            "two tasks",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, line, says):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=says):
        read_tasks(path)


@pytest.mark.parametrize("spec", ["gsm8k", "humaneval:", "mmlu:x", "tasks.csv", ""])
def test_an_unknown_set_is_refused_with_what_there_is(spec):
    with pytest.raises(ValueError, match="write doctests, humaneval:PATH"):
        open_tasks(spec)


def test_the_samples_of_a_task_follow_one_another_each_with_a_seed_of_its_own(own):
    asks = list(plan(open_tasks(str(own), limit=2), samples=3).asks)
    assert [(ask.task, ask.sample) for ask in asks] == [
        (task, sample) for task in "23" for sample in range(3)
    ]
    assert len({ask.sampling.seed for ask in asks}) == 6
    assert [ask.output_tokens for ask in asks] == [8] * 3 + [256] * 3
    again = plan(open_tasks(str(own), limit=2), samples=3).asks
    assert [ask.sampling for ask in again] == [ask.sampling for ask in asks]
    other = plan(open_tasks(str(own), limit=2), samples=3, seed=1).asks
    assert {a.sampling.seed for a in asks}.isdisjoint(a.sampling.seed for a in other)
    fewer = plan(open_tasks(str(own), limit=2), samples=1).asks
    assert [ask.sampling for ask in fewer] == [asks[0].sampling, asks[3].sampling]


def test_greedy_answers_have_no_seed(own):
    assert plan(open_tasks(str(own)), temperature=0.0).asks[0].sampling.seed is None


def test_a_second_operating_point_asks_the_same_tasks(own):
    tasks = open_tasks(str(own), limit=2)
    tasks.samples = 2
    length = parse_lengths("1")
    source = Source(prompts=tasks, input_len=length, output_len=length, seed=0)
    first, second = (tasks.sample(source.closed(c, tasks.requests), 0.8, 0) for c in (1, 4))
    for a, b in zip(first.asks, second.asks, strict=True):
        assert (a.task, a.sample, a.content, a.sampling) == (
            b.task,
            b.sample,
            b.content,
            b.sampling,
        )


def test_doctests_are_held_out_distinct_and_shown_as_their_module_shows_them():
    tasks = open_tasks("doctests", limit=60, few_shot=2)
    assert len({task.prompt for task in tasks.tasks}) == 60
    for task in tasks.tasks:
        grade, _, expression = task.id.partition(": ")
        assert doctests.is_held_out(expression)
        assert repr(eval(expression)) == task.checker.answer
        assert task.prompt.count(">>> ") == 3
        known = doctests.Task(int(grade), expression, task.checker.answer)
        assert task.prompt == doctests.few_shot(known, 2)
    with pytest.raises(ValueError, match="limit=5,001 doctests; 5,000 is the most"):
        open_tasks("doctests", limit=5_001)


def test_examples_are_taken_from_the_top_and_not_asked(own):
    tasks = open_tasks(str(own), few_shot=1)
    asks = plan(tasks).asks
    assert len(asks) == 4
    assert asks[0].content == "2 + 2 = 4\n\nSay yes."
    assert asks[0].sampling.stop == (".", "!")
    with pytest.raises(ValueError, match='task 3 is to be an example.*"worked"'):
        open_tasks(str(own), few_shot=2)


def test_a_chat_is_asked_in_messages_and_stops_by_itself(own):
    ask = plan(open_tasks(str(own), few_shot=1), chat=True).asks[0]
    assert ask.content == [
        {"role": "user", "content": "2 + 2 ="},
        {"role": "assistant", "content": " 4"},
        {"role": "user", "content": "Say yes."},
    ]
    assert ask.sampling.stop == ()


@pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is not here")
def test_gsm8k_shows_worked_answers_that_end_in_the_mark():
    tasks = open_tasks(f"gsm8k:{GSM8K}", limit=3)
    ask = plan(tasks).asks[0]
    assert ask.content.count("Question: ") == 5
    assert ask.content.count("\n#### ") == 4
    assert ask.content.endswith("\nAnswer:")
    assert ask.task == "gsm8k/5"
    assert "<<" not in ask.content


def test_a_gsm8k_file_without_the_mark_is_refused(tmp_path):
    path = tmp_path / "g.jsonl"
    path.write_text('{"question": "?", "answer": "four"}\n')
    with pytest.raises(ValueError, match="line 1: the answer does not end in ####"):
        read_gsm8k(path)
