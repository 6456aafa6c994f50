import numpy as np
import pytest

from penstock.workload.lengths import parse_lengths


def draw(text, n=20_000):
    return parse_lengths(text).draw(n, np.random.default_rng(5))


def test_fixed():
    assert set(draw("128", 100)) == {128}


def test_uniform_reaches_both_ends():
    drawn = draw("3-6")
    assert set(drawn) == {3, 4, 5, 6}
    assert drawn.mean() == pytest.approx(4.5, rel=0.01)


@pytest.mark.parametrize("text", ["normal:256,64", "lognormal:256,200"])
def test_mean_and_deviation_are_those_of_the_lengths(text):
    drawn = draw(text)
    lengths = parse_lengths(text)
    assert drawn.mean() == pytest.approx(lengths.mean, rel=0.02)
    assert drawn.std() == pytest.approx(lengths.b, rel=0.05)


def test_never_below_one():
    assert draw("normal:2,50").min() == 1


def test_the_same_seed_gives_the_same_lengths():
    assert list(draw("lognormal:100,50")) == list(draw("lognormal:100,50"))


@pytest.mark.parametrize("text", ["128", "64-256", "normal:256,64", "lognormal:256,200"])
def test_written_as_read(text):
    assert str(parse_lengths(text)) == text


@pytest.mark.parametrize("text", ["", "x", "-5", "1.5", "normal:5", "gamma:1,2", "0", "9-3", "0-4"])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="length"):
        parse_lengths(text)
