"""What guesses brought, on counters made by hand."""

import msgspec
import pytest

from penstock.record.guesses import guesses, tokens_per_step
from penstock.record.run import Run
from penstock.record.series import Series
from penstock.record.steady import Window
from penstock.record.summary import summarise
from tests.record.simulated import closed_point

S = 10**9
WINDOW = Window(start_ns=10 * S, end_ns=30 * S, steady=True, whole_run=False)


def told(name, rate, position=None, kind="counter", begun=1000.0, seconds=40):
    """Read every second: a counter that grows by `rate` a second, a gauge that is it."""
    at = range(seconds + 1)
    return Series(
        name=name,
        unit="",
        kind=kind,
        source="page",
        position=position,
        at_ns=[second * S for second in at],
        values=[begun + rate * second if kind == "counter" else rate for second in at],
    )


def ours(**rates):
    """A server that drafts ten times a second; 4 steps in 5 guess, drafts are 1 to 3 long."""
    rates = {
        "output_tokens": 20.0,
        "sequence_steps": 12.5,
        "drafts": 10.0,
        "drafted": 22.0,
        "accepted": 7.5,
        "drafting": 0.03,
    } | rates
    by_position = [(10.0, 5.0), (8.0, 2.0), (4.0, 0.5)]
    return [
        *(told(name, rate) for name, rate in rates.items()),
        *(told("drafted_at", made, i) for i, (made, _) in enumerate(by_position)),
        *(told("accepted_at", right, i) for i, (_, right) in enumerate(by_position)),
    ]


def test_everything_that_our_server_tells():
    assert guesses(ours(), WINDOW) == {
        "tokens_per_step": pytest.approx(1.6),
        "accepted_share": pytest.approx(7.5 / 22),
        "time_share": pytest.approx(0.03),
        "by_position": [
            {"drafted": pytest.approx(made), "accepted": pytest.approx(right)}
            for made, right in ((1.0, 0.5), (0.8, 0.2), (0.4, 0.05))
        ],
    }


def test_of_the_window_alone():
    series = ours()
    for one in series:
        one.values[31:] = [value + 500 for value in one.values[31:]]  # in the drain
    assert guesses(series, WINDOW) == guesses(ours(), WINDOW)


def test_positions_that_no_draft_had_meanwhile_are_left_out():
    longer = [told("drafted_at", 0.0, 3), told("accepted_at", 0.0, 3)]
    assert len(guesses([*ours(), *longer], WINDOW)["by_position"]) == 3


def test_a_server_that_tells_what_came_true_alone():
    """As vLLM: how many steps there were follows, how long drafts were does not."""
    names = ("output_tokens", "drafts", "drafted", "accepted", "accepted_at")
    found = guesses([s for s in ours() if s.name in names], WINDOW)
    assert found["tokens_per_step"] == pytest.approx(20 / 12.5)
    assert found["time_share"] is None
    assert [place["drafted"] for place in found["by_position"]] == [None] * 3
    assert [place["accepted"] for place in found["by_position"]] == pytest.approx([0.5, 0.2, 0.05])


def test_a_server_that_tells_the_mean_itself():
    gauge = told("tokens_per_step", 2.5, kind="gauge")
    gauge.values[:10] = [9.0] * 10
    found = guesses([gauge, told("output_tokens", 20.0)], WINDOW)
    assert found.pop("tokens_per_step") == pytest.approx(2.5)
    assert found == {"accepted_share": None, "time_share": None, "by_position": []}
    assert tokens_per_step([gauge], int(20.2 * S), int(20.4 * S)) == 2.5  # no reading in it


@pytest.mark.parametrize(
    "watched",
    [
        [],
        [told("output_tokens", 20.0), told("running", 3.0, kind="gauge")],
        [told(name, 0.0) for name in ("drafts", "drafted", "accepted", "drafting")],
        [told("tokens_per_step", 0.0, kind="gauge")],
        [told("drafted", 22.0, seconds=20)],
    ],
    ids=["no page", "no such name", "nothing guessed", "a gauge at zero", "not to the end"],
)
def test_where_nothing_was_guessed_or_told_there_is_no_such_figure(watched):
    assert guesses(watched, WINDOW) is None


def test_guesses_that_never_come_true_are_a_token_a_step():
    never = [s for s in ours(sequence_steps=20.0, accepted=0.0) if s.name != "accepted_at"]
    found = guesses([*never, told("accepted_at", 0.0, 0)], WINDOW)
    assert (found["tokens_per_step"], found["accepted_share"]) == (1.0, 0.0)
    assert found["by_position"] == [{"drafted": 1.0, "accepted": 0.0}]


def test_the_summary_holds_the_mean_of_repeats():
    """In the second a step gives twice the tokens, and no draft has a third guess."""
    first, second = (closed_point(repeat, seconds=20, repeat=repeat) for repeat in range(2))
    for moments in (second, *second.records):
        for name in moments.__struct_fields__:
            if name.endswith("_ns") and name != "event_ns":
                setattr(moments, name, getattr(moments, name) + 30 * S)
    for record in second.records:
        record.event_ns = [at + 30 * S for at in record.event_ns]
    series = [msgspec.structs.replace(s, at_ns=[2 * at for at in s.at_ns]) for s in ours()]
    for one in series:  # read every two seconds now, so of half the rate
        half = len(one.at_ns) * 30 // 80
        if one.name == "output_tokens":
            one.values[half:] = [2 * value - one.values[half] for value in one.values[half:]]
        if one.position == 2:
            one.values[half:] = [one.values[half]] * len(one.values[half:])
    run = Run(started="2026-01-01T00:00:00Z", target={}, points=[first, second], series=series)
    [point] = summarise(run)["points"]
    assert [r["guesses"]["tokens_per_step"] for r in point["repeats"]] == pytest.approx([1.6, 3.2])
    assert [len(r["guesses"]["by_position"]) for r in point["repeats"]] == [3, 2]
    assert point["guesses"]["tokens_per_step"] == pytest.approx(2.4)
    assert [p["drafted"] for p in point["guesses"]["by_position"]] == pytest.approx([1, 0.8, 0.2])
    run.series = []
    assert summarise(run)["points"][0]["guesses"] is None
