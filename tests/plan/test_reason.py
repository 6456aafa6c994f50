"""Accuracy against time and cost, on answers made by hand."""

import msgspec
import pytest

from penstock.engine.request import ModelFacts
from penstock.plan.reason.ask import Answers, Asking, Timed
from penstock.plan.reason.trade import trade
from penstock.record.price import Price
from penstock.record.record import Outcome, Record
from penstock.report.reason import sentences, tables

FACTS = ModelFacts(
    name="by hand",
    architecture="none",
    max_model_len=2048,
    vocab_size=2,
    parameters=7_000_000,
    weight_bytes=1,
    flops_per_token=1,
    head_flops=1,
    attention_flops=1,
    kv_bytes_per_token=1,
    dtype="fp32",
    precision="fp32",
    compute="fp32",
    kv_dtype="fp32",
    device="cpu",
    threads=1,
    page_size=16,
    pages=1,
    eos_token_ids=[],
)
TRUE = "yes"


def records(task, *answers):
    return [
        Record(
            request_id=f"{task}.{sample}",
            outcome=Outcome.FINISHED,
            sched_ns=0,
            prompt_tokens=100,
            output_tokens=10,
            task=task,
            sample=sample,
            answer=answer,
            correct=answer == TRUE,
        )
        for sample, answer in enumerate(answers)
    ]


@pytest.fixture
def answers():
    """Three questions: 3 of 4 samples right; 1 of 4, the others apart; none of 4."""
    asking = Asking(samples=(1, 2, 4), questions=3)
    made = Answers(asking, "questions by hand", FACTS)
    made.samples = {
        "a": records("a", TRUE, TRUE, "no", TRUE),
        "b": records("b", "x", TRUE, "y", "z"),
        "c": records("c", "no", None, "no", None),
    }
    made.greedy = [group[1] for group in made.samples.values()]
    made.timed = [
        Timed(1, seconds=0.5, first_s=0.1, tokens=10),
        Timed(2, seconds=0.6, first_s=0.1, tokens=20),
        Timed(4, seconds=1.0, first_s=0.2, tokens=40),
    ]
    return made


def test_one_sample_is_right_as_often_as_samples_are(answers):
    one, _, four = trade(answers).quality
    assert one.majority == one.any_right
    assert one.majority.value == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    # Of all four the vote is right in a, in b when the right one comes first of four.
    assert four.majority.value == pytest.approx((1 + 1 / 4) / 3, abs=0.05)
    assert four.any_right.value == pytest.approx(2 / 3)
    assert trade(answers).greedy.value == pytest.approx(2 / 3)


def test_a_perfect_verifier_gains_as_pass_at_k_says(answers):
    two = trade(answers).at(2)
    assert two.any_right.value == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert two.output_tokens == 20


def test_gains_are_taken_question_by_question(answers):
    kinds = list(answers.samples.values())
    answers.samples = {str(i): kinds[i % 3] for i in range(30)}
    answers.greedy *= 10
    one, _, four = trade(answers).quality
    assert (one.gain, one.gain_ci95) == (0, None)
    assert four.gain == pytest.approx(four.majority.value - one.majority.value)
    low, high = four.gain_ci95
    assert low < four.gain < high
    assert high - low < four.majority.ci95[1] - four.majority.ci95[0]


def test_the_vote_is_held_against_one_greedy_answer(answers):
    one, _, four = trade(answers).quality
    assert one.over_greedy == pytest.approx(1 / 3 - 2 / 3)
    assert four.over_greedy == pytest.approx(four.majority.value - 2 / 3)
    low, high = four.over_greedy_ci95
    assert low < four.over_greedy < high


def test_here_time_is_what_was_measured(answers):
    (here,) = trade(answers).engines
    assert [spent.seconds for spent in here.spent] == [0.5, 0.6, 1.0]
    assert (here.measured, here.tokens_per_s, here.first_s) == (True, 20, 0.1)


def test_at_a_speed_time_is_the_first_token_and_the_others_at_that_speed(answers):
    _, slow, fast = trade(answers, (100, 10)).engines
    # Ten tokens/s are half of what this engine gives one question: its first token takes twice.
    assert slow.first_s == pytest.approx(0.2)
    assert [spent.seconds for spent in slow.spent] == pytest.approx([1.1, 2.1, 4.1])
    assert fast.spent[2].seconds == pytest.approx(0.02 + 39 / 100)
    (_, told) = trade(answers, (10,), first_s=3).engines
    assert told.spent[0].seconds == pytest.approx(3.9)


def test_what_fits_in_a_time(answers):
    _, slow, fast = trade(answers, (10, 100)).engines
    assert slow.within(1.0) is None
    assert slow.within(2.1).samples == 2
    assert fast.within(1.1).samples == 4


def test_hardware_costs_while_it_answers_and_tokens_what_they_are(answers):
    here, slow = trade(answers, (10,), price=Price(per_hour=3600)).engines
    assert [spent.cost for spent in here.spent] == pytest.approx([0.5, 0.6, 1.0])
    assert slow.spent[1].cost == pytest.approx(2.1)
    by_tokens = trade(answers, (10,), price=Price(input=1, output=2)).engines
    for engine in by_tokens:  # the prompt is paid once
        assert [s.cost for s in engine.spent] == pytest.approx([120e-6, 140e-6, 180e-6])
    assert trade(answers).engines[0].spent[0].cost is None
    assert trade(answers, (10,), price=Price(input=1, output=2)).cost_alike
    assert not trade(answers, (10,), price=Price(per_hour=3600)).cost_alike


def test_an_interrupted_run_says_so_and_leaves_out_what_nobody_timed(answers):
    del answers.samples["b"], answers.samples["c"], answers.greedy[1:]
    answers.timed = answers.timed[:1]
    found = trade(answers, (10,))
    assert (found.questions, found.asked) == (1, 3)
    assert [spent.samples for spent in found.engines[0].spent] == [1]
    assert "Interrupted: 1 of 3 questions" in " ".join(sentences(found))
    times = {title: rows for title, _, rows in tables(found)}["Time of a question"]
    assert times[2] == ["4", "–", "4.10 s"]
    answers.samples.clear()
    with pytest.raises(ValueError, match="no question was answered"):
        trade(answers)


def test_sentences_say_what_speed_buys(answers):
    said = " ".join(sentences(trade(answers, (10, 1000))))
    assert "2 times the time" in said
    assert "In the 1.10 s that 10 tokens/s take for one sample (33.3 % right)" in said
    assert "1,000 tokens/s make 4 samples" in said
    assert "which chance could do" in said


def test_the_trade_can_be_written_as_json(answers):
    assert msgspec.json.decode(msgspec.json.encode(trade(answers)))["questions"] == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"samples": (4, 1)}, "rising from 1"),
        ({"samples": (0, 1)}, "rising from 1"),
        ({"samples": (1, 5000)}, "1024 is the most"),
        ({"temperature": 0.0}, "at 0 all samples are the same"),
        ({"temperature": 3.0}, "temperature=3.0"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(given, says):
    with pytest.raises(ValueError, match=says):
        Asking(**given)
