"""What is timed before and after: all of it watched."""

from penstock.compress.run import Measuring, measure
from penstock.compress.speed import READING, ROUNDS, WRITING


def test_prompts_are_timed_under_the_same_bar(family):
    heard = []
    before, after, _ = measure(
        family("llama"), family("llama"), Measuring(rows=0, tasks=0), lambda *n: heard.append(n)
    )
    steps = ROUNDS * 2 * (len(WRITING) + len(READING))
    assert heard == [("speed", done, steps) for done in range(1, steps + 1)]
    for figures in (before, after):
        assert [speed.sequences for speed in figures.speed] == [load.sequences for load in WRITING]
        assert len(figures.reading) == len(READING)
