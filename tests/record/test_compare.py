"""Equal servers are called equal, different ones different, and at the stated rates."""

import msgspec
import numpy as np
import pytest

from penstock.record.compare import ALPHA, TESTED, compare
from penstock.record.gate import Gate, parse_gates, rule
from penstock.record.quality import Vote, over_tasks
from penstock.record.record import Outcome
from penstock.record.run import Run
from penstock.record.slo import parse_slos
from penstock.record.stats import difference
from tests.record.simulated import closed_point, run_of


def bare(*points):
    return Run(started="2026-01-01T00:00:00+00:00", target={}, points=list(points))


def repeated(seed, count=5, **options):
    return bare(*(closed_point(100 * seed + i, repeat=i, **options) for i in range(count)))


def findings(made):
    return {e.name: e.finding for pair in made.pairs for e in pair.effects}


# Speed that wanders by 4 %, with a memory of half a second and of two: neighbours are alike.
@pytest.mark.parametrize("memory_s", [0.5, 2.0])
def test_equal_single_runs_differ_no_more_often_than_stated(memory_s):
    false = 0
    for i in range(40):
        a = bare(closed_point(2 * i, deviation=0.04, memory_s=memory_s))
        b = bare(closed_point(2 * i + 1, deviation=0.04, memory_s=memory_s))
        false += not set(findings(compare(a, b)).values()) <= {"none", "not tested"}
    assert false <= ALPHA * 40


def test_equal_repeated_runs_differ_no_more_often_than_stated():
    """Here runs differ from each other by 3 % too, which only repeats can see."""
    false = 0
    for i in range(40):
        a = repeated(2 * i, 4, seconds=12, deviation=0.03, offset=0.03)
        b = repeated(2 * i + 1, 4, seconds=12, deviation=0.03, offset=0.03)
        false += not set(findings(compare(a, b)).values()) <= {"none", "not tested"}
    assert false <= ALPHA * 40


@pytest.mark.parametrize("speed", [1.05, 1 / 1.05])
def test_a_true_difference_of_5_percent_is_found_in_single_runs(speed):
    found, wanted = 0, "better" if speed > 1 else "worse"
    for i in range(20):
        a = bare(closed_point(2 * i, deviation=0.03, memory_s=0.3))
        b = bare(closed_point(2 * i + 1, deviation=0.03, memory_s=0.3, speed=speed))
        found += findings(compare(a, b))["output_throughput"] == wanted
    assert found >= 18


def test_a_true_difference_of_5_percent_is_found_over_repeats():
    found = 0
    for i in range(20):
        a = repeated(2 * i, seconds=12, deviation=0.02, offset=0.01)
        b = repeated(2 * i + 1, seconds=12, deviation=0.02, offset=0.01, speed=1.05)
        found += findings(compare(a, b))["output_throughput"] == "better"
    assert found >= 18


def test_slow_swings_are_warned_of():
    """A memory of a fifth of the window: batches within the run cannot be independent."""
    warned = [
        "comes and goes" in str(compare(run, run).warnings)
        for memory_s in (0.3, 8.0)
        for run in (bare(closed_point(s, deviation=0.08, memory_s=memory_s)) for s in range(20))
    ]
    assert sum(warned[:20]) <= 1
    assert sum(warned[20:]) >= 12


def test_intervals_hold_the_true_change():
    covered = 0
    for i in range(40):
        a = bare(closed_point(2 * i, deviation=0.05))
        b = bare(closed_point(2 * i + 1, deviation=0.05, speed=1.1))
        effect = compare(a, b).pairs[0].effects[0]
        assert effect.name == "output_throughput"
        covered += effect.ci95[0] <= 0.1 <= effect.ci95[1]
    assert covered >= 36


@pytest.fixture(scope="module")
def pair():
    a, b = closed_point(1, deviation=0.02), closed_point(2, deviation=0.02, speed=1.2)
    b.conditions = {**b.conditions, "seed": 7, "prompt_tokens_mean": 102}
    a.conditions = {**a.conditions, "prompt_tokens_mean": 100}
    return run_of(a), run_of(b)


def test_the_same_run_does_not_differ_from_itself(pair):
    made = compare(pair[0], pair[0])
    assert set(findings(made).values()) <= {"none"}
    assert all(effect.change == 0 for effect in made.pairs[0].effects)
    assert made.warnings == []


def test_latencies_that_fall_are_better(pair):
    by_name = {e.name: e for e in compare(*pair).pairs[0].effects}
    assert by_name["tpot.p50"].finding == by_name["output_throughput"].finding == "better"
    assert by_name["tpot.p50"].change == pytest.approx(1 / 1.2 - 1, abs=0.03)
    assert by_name["output_throughput"].change == pytest.approx(0.2, abs=0.03)


def test_conditions_that_differ_are_named(pair):
    made = compare(*pair)
    # Two in a hundred more prompt tokens are chance, not a condition.
    assert made.pairs[0].conditions == {"seed": [0, 7]}
    assert made.warnings == ["conditions differ: seed"]


def test_an_invalid_run_is_warned_of(pair):
    short = run_of(closed_point(3, seconds=5))
    [warning, *_] = compare(pair[0], short).warnings
    assert warning.startswith("B is INVALID (too_short")


def test_different_caches_are_a_condition(pair):
    b = closed_point(2, deviation=0.02)
    for record in b.records:
        record.cached_tokens = 50
    made = compare(pair[0], bare(b))
    assert made.pairs[0].conditions["cached_share"] == [0.0, 0.5]


def test_loads_are_matched_and_the_others_named(pair):
    both = bare(closed_point(5, slots=2), closed_point(6, slots=8))
    made = compare(pair[0], both)
    assert [p.at for p in made.pairs] == ["with 8 at once"]
    assert "only one of the runs was measured with 2 at once" in made.warnings
    other = bare(closed_point(7, slots=2), closed_point(7, slots=3))
    with pytest.raises(ValueError, match="no operating point in common"):
        compare(pair[0], other)
    # One against one is compared all the same.
    assert len(compare(pair[0], bare(closed_point(7, slots=2))).pairs) == 1


def test_errors_are_tested():
    a, b = closed_point(1, deviation=0.02), closed_point(2, deviation=0.02)
    rng = np.random.default_rng(1)
    for record in b.records:
        if rng.random() < 0.2:
            record.outcome = Outcome.FAILED
    by_name = {e.name: e for e in compare(bare(a), bare(b)).pairs[0].effects}
    assert by_name["errors"].finding == "worse"
    assert by_name["errors"].change is None


def test_too_few_samples_are_not_tested():
    a = bare(closed_point(1, slots=2, seconds=15))
    effect = next(e for e in compare(a, a).pairs[0].effects if e.name == "e2e.p99")
    assert effect.finding == "not tested"
    assert effect.why.endswith("of 299 samples")


def test_goodput_wants_the_same_limits():
    a, b = (bare(closed_point(s, deviation=0.02)) for s in (1, 2))
    assert "goodput" not in findings(compare(a, b))
    a.slos = parse_slos("ttft<1s")
    effect = next(e for e in compare(a, b).pairs[0].effects if e.name == "goodput")
    assert effect.why == "their limits (--slo) differ"
    b.slos = parse_slos("ttft<1s")
    effect = next(e for e in compare(a, b).pairs[0].effects if e.name == "goodput")
    assert effect.a > 5


def tasked(seed, right, samples=1, tasks=None, repeat=0, **options):
    """A point whose requests were samples of tasks, right with that probability each."""
    made = closed_point(seed, repeat=repeat, deviation=0.02, **options)
    rng = np.random.default_rng(seed)
    made.conditions = {**made.conditions, "samples_per_prompt": samples}
    for i, record in enumerate(made.records):
        record.task, record.sample = str(i // samples), i % samples
        if tasks is not None and i // samples >= tasks:
            break
        record.correct = bool(rng.random() < right)
        record.answer = "right" if record.correct else f"wrong {rng.integers(3)}"
    return made


QUALITY = ["accuracy", "correct_per_s"]


def test_right_answers_are_compared_where_there_are_tasks():
    a, b = bare(tasked(1, 0.8)), bare(tasked(2, 0.4))
    made = compare(a, b)
    by_name = {e.name: e for e in made.pairs[0].effects}
    assert by_name["accuracy"].finding == by_name["correct_per_s"].finding == "worse"
    assert by_name["accuracy"].a == pytest.approx(0.8, abs=0.06)
    assert by_name["accuracy"].change == pytest.approx(-0.5, abs=0.08)
    gates = parse_gates("accuracy<-5%,correct_per_s<-5%")
    assert [r.failed for r in rule(gates, made)] == [True, True]
    assert [r.failed for r in rule(gates, compare(a, a))] == [False, False]
    assert not set(QUALITY) & set(findings(compare(bare(closed_point(1)), bare(closed_point(2)))))


def test_equal_accuracies_differ_no_more_often_than_stated():
    """Also where nearly all are right, and with few tasks: 400 pairs, of which 5 % may differ."""
    for right, tasks in ((0.5, 40), (0.97, 40), (0.7, 12)):
        rng, differ = np.random.default_rng(5), 0
        for _ in range(400):
            a, b = (
                over_tasks(
                    Vote(task=str(i), right=bool(rng.random() < right), share=0, at_ns=0)
                    for i in range(tasks)
                )
                for _ in "ab"
            )
            differ += difference(a, b).p < 0.05
        assert differ <= 400 * 0.05 + 2 * (400 * 0.05 * 0.95) ** 0.5


def test_repeats_of_a_task_are_one_part_of_its_accuracy():
    """The same answer ten times is no ten answers."""
    votes = [Vote(task=str(i), right=i % 3 > 0, share=0, at_ns=0) for i in range(30)]
    once, often = over_tasks(votes), over_tasks(votes * 10)
    assert once == often
    assert once.value == pytest.approx(2 / 3)
    assert over_tasks(votes[:1] * 10) is None


def test_a_change_to_all_right_is_found_though_nothing_varies():
    a, b = bare(tasked(1, 0.5, tasks=60)), bare(tasked(2, 1.0, tasks=60))
    effect = compare(a, b, ["accuracy"]).pairs[0].effects[0]
    assert (effect.b, effect.finding) == (1.0, "better")
    assert effect.ci95[0] > 0


def test_points_of_one_load_are_matched_by_their_samples():
    run = bare(*(tasked(n, 0.6, samples=n, seconds=20) for n in (1, 4)))
    made = compare(run, run, QUALITY)
    assert [p.at for p in made.pairs] == ["with 8 at once", "with 8 at once, n = 4"]
    first, second = (p.effects[0].a for p in made.pairs)
    assert first != second


def test_a_gate_on_what_neither_run_has_does_not_pass():
    a = bare(closed_point(1, seconds=15))
    for ruling in rule(parse_gates("accuracy<-5%,goodput<-5%"), compare(a, a)):
        assert ruling.failed
        assert "neither run has" in ruling.says


def test_unknown_tokens_are_not_tested():
    a = closed_point(1)
    for record in a.records:
        record.output_tokens, record.event_tokens = None, []
    effect = compare(bare(a), bare(a)).pairs[0].effects[0]
    assert (effect.name, effect.why) == ("output_throughput", "nobody counted the tokens")


def test_the_comparison_goes_through_json(pair):
    made = compare(*pair)
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
    assert [e.name for e in made.pairs[0].effects] == [
        n for n in TESTED if n not in ("goodput", *QUALITY)
    ]


def test_gates_are_read():
    assert parse_gates("output_throughput<-5%, ttft.p99>+10%,tpot > 2.5 %") == [
        Gate(name="output_throughput", side="<", limit=-0.05),
        Gate(name="ttft.p99", side=">", limit=0.10),
        Gate(name="tpot.mean", side=">", limit=0.025),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read ''"),
        ("output_throughput", "cannot read 'output_throughput'"),
        ("output_throughput<-5", "cannot read 'output_throughput<-5'"),
        ("output_throughput<=-5%", "cannot read"),
        ("speed<-5%", "no metric 'speed'; there are: output_throughput"),
        ("ttft.p98>5%", "no metric 'ttft.p98'"),
        ("output_throughput<5%", "did you mean output_throughput<-5%"),
        ("ttft>-5%", "did you mean ttft>[+]5%"),
    ],
)
def test_gates_that_cannot_be_read_say_why(text, says):
    with pytest.raises(ValueError, match=says):
        parse_gates(text)


@pytest.mark.parametrize(
    ("text", "failed", "says"),
    [
        ("output_throughput<-5%", False, "passes: +"),
        ("output_throughput>5%", True, "fails: +"),
        ("e2e.p99>+0%", None, None),
        ("errors>+1%", False, "passes: +0.0 %"),
        ("input_throughput<-5%", False, "passes: +"),
    ],
)
def test_rulings(pair, text, failed, says):
    gates = parse_gates(text)
    [ruling] = rule(gates, compare(*pair, [gate.name for gate in gates]))
    if failed is not None:
        assert ruling.failed is failed
        assert ruling.says.startswith(says)
    assert ruling.at == "with 8 at once"


def test_noise_does_not_fail_a_gate():
    a, b = bare(closed_point(1, deviation=0.2)), bare(closed_point(4, deviation=0.2))
    change = compare(a, b).pairs[0].effects[0].change
    gate = Gate(name="output_throughput", side="<" if change < 0 else ">", limit=change / 2)
    [ruling] = rule([gate], compare(a, b))
    assert not ruling.failed
    assert ruling.says.endswith("within the noise")


def test_what_cannot_be_judged_fails():
    a = bare(closed_point(1, slots=2, seconds=15))
    [ruling] = rule(parse_gates("e2e.p99>+10%"), compare(a, a))
    assert ruling.failed
    assert "cannot be judged" in ruling.says
