"""What stays of a prompt: within the share, in whole parts, as the way says."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import models
from penstock.engine.model.tokenizer import Tokenizer
from penstock.prompts.keep import Rule, Way, kept, protected
from penstock.prompts.parts import By, Parts

TOKENIZER = Tokenizer.load(models.path("embedded"))
BARE = Rule(first=0, last=0, segment=None)
TEXT = "def f(x):\n    return x + 1\n\n\nprint(f(2))  # naïve, 日本語 and 😀.\nEnd. Or not?\n"


def parts(text: str, by: By) -> Parts:
    return Parts(TOKENIZER, TOKENIZER.encode(text, special=False), by)


def text_of(some: Parts, stays: np.ndarray) -> str:
    """What stays, strictly: half a character would raise."""
    return b"".join(b for b, stay in zip(some.bytes, stays, strict=True) if stay).decode()


@settings(deadline=None, max_examples=150)
@given(
    text=st.text(min_size=1, max_size=200),
    by=st.sampled_from(get_args(By)),
    way=st.sampled_from(get_args(Way)),
    keep=st.floats(0.01, 1.0),
    first=st.integers(0, 20),
    last=st.integers(0, 20),
    segment=st.none() | st.integers(1, 64),
    seed=st.integers(0, 5),
)
def test_never_more_than_the_share_and_never_half_a_character(
    text: str,
    by: By,
    way: Way,
    keep: float,
    first: int,
    last: int,
    segment: int | None,
    seed: int,
) -> None:
    some = parts(text, by)
    rule = Rule(keep=keep, way=way, by=by, first=first, last=last, segment=segment, seed=seed)
    surprise = np.random.default_rng(seed).random(len(some)).astype(np.float32)
    stays, safe = kept(some, rule, surprise), protected(some, rule)
    assert (stays >= safe).all()
    free = ~safe
    assert stays[free].sum() <= keep * free.sum() + 1e-6
    assert (some.whole(stays) == stays).all()
    assert set(text_of(some, stays)) <= set(b"".join(some.bytes).decode())
    assert np.array_equal(stays, kept(some, rule, surprise))


def test_parts_are_lines_and_sentences_words_or_tokens() -> None:
    def split(by: By) -> list[str]:
        some = parts(TEXT, by)
        return [text_of(some, some.of == part) for part in range(some.of.max() + 1)]

    for by in get_args(By):
        assert "".join(split(by)) == TEXT
    assert all(len(line.strip().splitlines()) <= 1 for line in split("line"))
    assert sum("print" in part for part in split("line")) == 1
    assert "    return x + 1" in "".join(p for p in split("line") if "return" in p)
    assert len(split("line")) < len(split("word")) < len(split("token"))
    long = parts("word " * 400, "line")
    assert np.bincount(long.of).max() <= 48


def test_the_most_surprising_parts_stay() -> None:
    some = parts("one\ntwo\nthree\nfour\n", "line")
    surprise = np.where(some.of % 2 == 1, 5.0, 1.0).astype(np.float32)
    rule = Rule(first=0, last=0, segment=None, tokens=int((some.of % 2 == 1).sum()))
    assert text_of(some, kept(some, rule, surprise)) == "two\nfour\n"
    with pytest.raises(ValueError, match="surprise of each token"):
        kept(some, BARE)


def test_baselines_cut_where_they_say() -> None:
    some = parts(" a" * 30, "token")
    count = len(some)

    def places(way: Way) -> list[int]:
        rule = Rule(way=way, by="token", keep=0.2, first=0, last=0, segment=None)
        return np.flatnonzero(kept(some, rule)).tolist()

    fifth = count // 5
    assert places("start") == list(range(fifth))
    assert places("end") == list(range(count - fifth, count))
    ends = places("ends")
    assert len(ends) == fifth
    assert abs(sum(1 for p in ends if p < count / 2) - fifth / 2) <= 0.5
    assert places("random") == places("random")
    words = parts("the cat and the dog of a house\n", "word")
    rule = Rule(way="stopwords", by="word", tokens=int((~words.stop_words()).sum()),
                first=0, last=0, segment=None)  # fmt: skip
    stays = kept(words, rule)
    assert not (stays & words.stop_words()).any()


def test_what_is_protected_stays_at_any_share() -> None:
    some = parts(TEXT * 6, "line")
    rule = Rule(keep=0.01, first=3, last=3)
    surprise = np.zeros(len(some), np.float32)
    stays = kept(some, rule, surprise, some.matching([r"^print.*$"]))
    assert text_of(some, stays).count("print(f(2))") == 6
    assert stays[0]
    assert stays[-1]
    assert stays.mean() < 0.7
    with pytest.raises(ValueError, match="no regular expression"):
        some.matching(["("])


def test_what_stays_of_a_beginning_does_not_depend_on_what_follows() -> None:
    rule = Rule(keep=0.4, first=8, last=0, segment=64)
    surprise = np.random.default_rng(0).random(2000).astype(np.float32)
    ids = TOKENIZER.encode((TEXT + "x = [1, 2]\n") * 20, special=False)
    long, short = (Parts(TOKENIZER, some, "line") for some in (ids, ids[:300]))
    of_long = kept(long, rule, surprise[: len(ids)])
    of_short = kept(short, rule, surprise[:300])
    whole = 300 // 64 * 64 - 48  # a line may lie across the last border
    assert np.array_equal(of_long[:whole], of_short[:whole])
    assert 0 < of_long[:whole].sum() < whole


@pytest.mark.parametrize(
    ("field", "value"), [("keep", 0.0), ("keep", 1.1), ("tokens", 0), ("last", -1), ("segment", 0)]
)
def test_rules_name_what_is_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        Rule(**{field: value})
